#!/usr/bin/env bash
# Fetches question files from their public homes into data/<set>/: resumable, checked, licences shown.
#   bash scripts/download_data.sh [set ...]      sets ur2, medqa and math by default; --help lists all
#   DATA=folder                                  instead of data
#   UR2_GITHUB_RAW=url HF_ENDPOINT=url           mirrors of raw.githubusercontent.com, huggingface.co
# Exit code 2 names every file that is missing and where it could be had.
set -euo pipefail
cd "$(dirname "$0")/.."

data=${DATA:-data}
github=${UR2_GITHUB_RAW:-https://raw.githubusercontent.com}
hub=${HF_ENDPOINT:-https://huggingface.co}
ur2=$github/Tsinghua-dhy/UR2/b1cbc8bc4b4d94778baa2dd4180643b10703d753
ngrpo=$github/nangongrui-ngr/NGRPO/e7a380415a64cd8ac102504c38a5f86069022f35

# set <tab> file <tab> check <tab> address <tab> licence. A check is sha256:, git: (the blob id in the
# repository) or first: (no published checksum; the first download's is recorded and kept to).
table() {
  cat <<EOF | tr '|' '\t'
ur2|train_rag_math_stage1.jsonl|sha256:f4adeb989b4ab86dab51d37106e4f9fc0fa5dda5f41235d9bd02f6aaa05b64db|$ur2/train/datasets/train_rag_math_stage1.jsonl|UR² Apache-2.0; MATH MIT
ur2|train_rag_math_stage2.jsonl|sha256:5da4cff1eb67e6ff743cf90fd2c172e1b2264a08a9fe2429aaa52e637fd3819f|$ur2/train/datasets/train_rag_math_stage2.jsonl|UR² Apache-2.0; MATH MIT; HotpotQA CC BY-SA 4.0; 2Wiki Apache-2.0
ur2|train_rag_math_stage2_llama.jsonl|sha256:bccbc1cee5a59349b9d95cd4fadb813c223bdc2d94b082531ec10dba9d799e8d|$ur2/train/datasets/train_rag_math_stage2_llama.jsonl|UR² Apache-2.0; MATH MIT; HotpotQA CC BY-SA 4.0; 2Wiki Apache-2.0
ur2|hotpotqa_500.jsonl|sha256:bf8a42f6e1abcaaaf050cf3c7ffa50231102dd1c021b77ab01eeac95fad04bea|$ur2/eval/dataset/hotpot500/hotpotqa_500.jsonl|HotpotQA CC BY-SA 4.0
ur2|2wiki_500.jsonl|sha256:0fb19dee8acbf146d60c699443b1164038727f9597f30f4894bab2da253b2f1a|$ur2/eval/dataset/2wiki500/2wiki_500.jsonl|2WikiMultiHopQA Apache-2.0
ur2|musique_500.jsonl|sha256:d1342802b9b9850e44a946031de4557722427783c92421178d729dd6e113b50d|$ur2/eval/dataset/musique500/musique_500.jsonl|MuSiQue CC BY 4.0
ur2|bamboogle.jsonl|sha256:1c551e2f4c3387fd97a1cf711737258df5ffd4ea86996f1b2ba63a861cb7af29|$ur2/eval/dataset/bamboogle/bamboogle.jsonl|Bamboogle MIT
ur2|math500.jsonl|sha256:63123bf35e13c8757bb41ea4311a9c26d12dfdef876cdfbff2c3914fb8f684df|$ur2/eval/dataset/math500/math500.jsonl|MATH MIT
ur2|minervamath.jsonl|sha256:e04ec2bc1d8f80a0091b4b1989f1ffb366f3583f5bae381546a066d4ccc26e3d|$ur2/eval/dataset/minervamath/minervamath.jsonl|UR² Apache-2.0; problems from MIT OpenCourseWare, CC BY-NC-SA 4.0
ur2|mmlupro.jsonl|sha256:30c7f40b095d0cc0b2b50ce73157aa877029eaee6717690ebc3d167b0a771d55|$ur2/eval/dataset/mmlupro/mmlupro.jsonl|MMLU-Pro Apache-2.0
ur2|mmlupro_med.jsonl|sha256:0da5d18bd37454f9c2de89d1fbdca98572e5f30339abc5502141b8be023d9455|$ur2/eval/dataset/mmlupro_med/mmlupro_med.jsonl|MMLU-Pro Apache-2.0
ur2|medqa_500_5options.jsonl|sha256:3c3d97d32bce92a7e2c54a51a43a2272e654a0f829156ab838ec9ac58810d4bd|$ur2/eval/dataset/medqa/medqa_500_5options.jsonl|MedQA MIT
medqa|train.jsonl|git:b4693c728415d7e026ebb0f5ba8a5853fcfaae64|$ur2/train/datasets/train_mmlu_medqa.jsonl|UR² Apache-2.0; MedQA MIT; MMLU-Pro Apache-2.0
math|math_test_5000.parquet|sha256:d570857db776722443a0e5ba598a77a61d91a99fc0d7493621e046c76c020b5c|$ngrpo/test_dataset/math/test-00000-of-00001.parquet|MATH MIT
search_r1|train.parquet|first:|$hub/datasets/PeterJinGo/nq_hotpotqa_train/resolve/main/train.parquet|Natural Questions CC BY-SA 3.0; HotpotQA CC BY-SA 4.0
EOF
}

usage() {
  sed -n '2,6s/^# \{0,1\}//p' scripts/download_data.sh
  echo
  echo "sets:"
  echo "  ur2        UR²'s math and open QA training files and the nine evaluation sets, 8 MB"
  echo "  medqa      UR²'s MedQA + MMLU-Pro training questions with levels, 9 MB"
  echo "  math       MATH's 5,000 test problems, to find training questions that leak them, 2 MB"
  echo "  search_r1  Natural Questions + HotpotQA training questions as Search-R1 prepared them"
  echo
  echo "Passages are not fetched: data/README.md says what each experiment searches."
}

fail() { echo "download_data: $*" >&2; exit 2; }

sha256() { if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1; }

# Whether file $1 fits check $2.
fits() {
  case $2 in
    sha256:*) [ "$(sha256 "$1")" = "${2#sha256:}" ] ;;
    git:*) [ "$(git hash-object --no-filters "$1")" = "${2#git:}" ] ;;
    first:) [ ! -f "${1%.part}.sha256" ] || [ "$(sha256 "$1")" = "$(cat "${1%.part}.sha256")" ] ;;
  esac
}

# Downloads $1 to $2, going on from where an earlier attempt stopped.
download() {
  local options=(--location --fail --silent --show-error --retry 3 --retry-connrefused
    --connect-timeout 20 --speed-limit 1024 --speed-time 60 --output "$2")
  if [ -s "$2" ]; then
    curl "${options[@]}" --continue-at - "$1" && return 0
    rm -f "$2"  # The server cannot resume, or what lies there is all or too much of it.
  fi
  curl "${options[@]}" "$1"
}

# Fetches one file; says why not and returns 1 where it cannot.
fetch() {
  local file=$1 check=$2 address=$3 part=$1.part
  if [ -f "$file" ] && fits "$file" "$check"; then echo "  have  $file"; return 0; fi
  [ ! -f "$file" ] || echo "  $file does not fit its checksum and is fetched again"
  download "$address" "$part" || return 1
  if ! fits "$part" "$check"; then
    echo "  $address: the download does not fit its checksum ($check) and was removed" >&2
    rm -f "$part"
    return 1
  fi
  mv "$part" "$file"
  [ "$check" != first: ] || sha256 "$file" >"$file.sha256"
  echo "  got   $file"
}

known=" $(table | cut -f1 | sort -u | tr '\n' ' ')"
for argument in "$@"; do
  case $argument in -h | --help) usage; exit 0 ;; esac
  [[ $known == *" $argument "* ]] || fail "no set '$argument'; known:$known(--help describes them)"
done
[ $# -gt 0 ] || set -- ur2 medqa math
command -v curl >/dev/null || fail "curl is needed; install it"

missing=()
for name in "$@"; do
  echo "$name: into $data/$name"
  table | awk -F'\t' -v set="$name" '$1 == set { print "  licence  " $2 ": " $5 }'
  mkdir -p "$data/$name" || fail "$data/$name cannot be made; name another folder with DATA=..."
  while IFS=$'\t' read -r _ file check address _; do
    fetch "$data/$name/$file" "$check" "$address" || missing+=("$data/$name/$file  from  $address")
  done < <(table | awk -F'\t' -v set="$name" '$1 == set')
done

if [ ${#missing[@]} -gt 0 ]; then
  {
    echo "download_data: ${#missing[@]} file(s) are missing. Check the network and run this again, or put them there by hand:"
    printf '  %s\n' "${missing[@]}"
  } >&2
  exit 2
fi
