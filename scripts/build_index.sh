#!/usr/bin/env bash
# From passages in a published format to an index; goes on where it was stopped.
#   bash scripts/build_index.sh SOURCE FOLDER [key=value ...]
#     SOURCE     a file, a folder or a pattern
#     FOLDER     gets corpus.arrow and index/
#     key=value  for example encoder=BAAI/bge-large-en-v1.5 index=hnsw; all keys are listed by
#                python -m ur2.retrieval.corpus --help and python -m ur2.retrieval.build --help
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

case " $* " in *" --help "*|*" -h "*) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
if [ $# -lt 2 ]; then sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
source=$1 folder=$2
shift 2

convert=() build=()
for word in "$@"; do
  case $word in
    in=*|out=*|corpus=*)
      echo "build_index: $word: SOURCE and FOLDER say this; see --help" >&2
      exit 2 ;;
    format=*|*_field=*|columns=*|passage_words=*) convert+=("$word") ;;
    *) build+=("$word") ;;
  esac
done
bash "$root/scripts/setup.sh"
python=$root/.venv/bin/python
"$python" -m ur2.retrieval.corpus in="$source" out="$folder/corpus.arrow" ${convert[@]+"${convert[@]}"}
"$python" -m ur2.retrieval.build corpus="$folder/corpus.arrow" out="$folder/index" ${build[@]+"${build[@]}"}
printf 'serve it: python -m ur2.retrieval.serve index=%q\n' "$folder/index"
