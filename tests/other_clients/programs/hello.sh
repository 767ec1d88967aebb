# llm and curl say hello to a small model, which may say a few tokens.
set -euo pipefail
export LLM_USER_PATH="$(mktemp -d)"
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<END
- {model_id: here, model_name: any, api_base: $BASE/v1}
END
test -n "$(llm -m here --key none --no-log -o max_tokens 12 'Hello')"
curl -sN "$BASE/v1/responses" -H 'Content-Type: application/json' \
  -d '{"model": "any", "input": "Hello", "stream": true, "max_output_tokens": 12}' \
  | grep '"type":"response.output_text.delta"' > /dev/null
echo done
