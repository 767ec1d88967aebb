# llm-comply: its tests of Open Responses; that of tools with a model that calls one.
# Not among them: reasoning-summary, which it skips for models that it does not know.
set -euo pipefail
asked=basic-response,system-prompt,multi-turn,streaming-response,streaming-usage,image-input
asked+=,assistant-phase,response-output-phase-schema,compact-missing-model,error-handling
llm-comply -u "$BASE/v1" -k none -m fake -f "$asked" | grep 'Results: 10/10 passed' > /dev/null
llm-comply -u "$BASE/v1" -k none -m tool-loop -f tool-calling | grep 'Results: 1/1 passed' > /dev/null
echo done
