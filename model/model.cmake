# model: one rank's shard of a model and the forward pass. A new architecture is an arch_*.c here and a row in archs.def.
consort_room(model SOURCES bind.c load.c rope.c decoder.c run.c arch_llama.c arch_qwen2.c arch_qwen3.c arch_gemma3.c sample.c adjust.c logprobs.c SEES kv parallel model_text kernels base)
