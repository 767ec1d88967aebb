# llm: options, a system prompt, a schema, a conversation that goes on, functions.
set -euo pipefail
export LLM_USER_PATH="$(mktemp -d)"
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<END
- {model_id: here, model_name: fake, api_base: $BASE/v1, supports_tools: true, supports_schema: true}
- {model_id: loop, model_name: tool-loop, api_base: $BASE/v1, supports_tools: true}
- {model_id: shaped, model_name: structured, api_base: $BASE/v1, supports_schema: true}
END
llm -m here --key none -s 'Be brief.' -o temperature 0.1 -o seed 7 'Hello' | grep '^t0 t1 ' > /dev/null
llm -m here --key none --no-stream -c 'And now?' | grep '^t0 t1 ' > /dev/null
llm -m shaped --key none --schema 'city, size int' 'Hello' | grep '"Paris"' > /dev/null
llm -m loop --key none 'Hello' --functions 'def add(a: int, b: int) -> int:
    return a + b
def sub(a: int, b: int) -> int:
    return a - b' | grep 'Three and two' > /dev/null
echo done
