"""Weights on their way from the policy to the engines: in, a policy's tensors; out, an engine's.

Two ways. `files`: the policy writes safetensors into a folder that engines read. A channel (`nccl`,
`tcp`, `ipc`): the policy sends from its memory while the engines receive into theirs. Either way
names are those of the Hugging Face model, parts are bounded, each publication has a version, and
engines can hold what they took against checksums that the policy took.
"""
