#!/usr/bin/env bash
# What the action does, as it is written down by hand today: curl, psql and fixed pauses. For `npm run bench` only, which gives
# the action's inputs as variables. It looks at nothing before it writes, puts nothing back, and stores what may not work.
set -euo pipefail

api=2025-08-01
role_api=2022-04-01
declare -A roles=(
  ["$OPENAI"]=5e0bd9bd-7b93-4f28-af87-19fc36ad61bd
  ["$COGNITIVE"]=a97b65f3-24c7-4388-baec-2e87135dc908
  ["$TRANSLATOR"]=a97b65f3-24c7-4388-baec-2e87135dc908
  ["$MACHINE_LEARNING"]=f6c7c914-8db3-469d-8ca1-694a8f32e121
)

# A value of a JSON answer on one line.
value() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" | head -n 1; }
# Fixed pauses, left out when the work alone is measured.
pause() { [ -n "${NO_PAUSE:-}" ] || sleep "$1"; }

token() {
  curl -sS --fail-with-body "$ENVIRONMENT/$TENANT_ID/oauth2/v2.0/token" -d grant_type=client_credentials -d "client_id=$CLIENT_ID" \
    -d client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer -d "client_assertion=$assertion" \
    --data-urlencode "scope=$1" | value access_token
}
arm() {
  curl -sS --fail-with-body -X "$1" -H "Authorization: Bearer $arm_token" -H 'Content-Type: application/json' ${3:+-d "$3"} "$ENVIRONMENT$2"
}
# Writes, and polls until the operation has ended.
operation() {
  local headers url status
  headers=$(curl -sS --fail-with-body -o /dev/null -D - -X "$1" -H "Authorization: Bearer $arm_token" -H 'Content-Type: application/json' -d "${3:-}" "$ENVIRONMENT$2" | tr -d '\r')
  url=$(sed -n 's/^azure-asyncoperation: //Ip' <<<"$headers")
  if [ -n "$url" ]; then
    while status=$(curl -sS --fail-with-body -H "Authorization: Bearer $arm_token" "$url" | value status); [ "$status" != Succeeded ]; do
      case $status in Failed | Canceled) echo "$url: $status" >&2; return 1 ;; esac
      sleep 1
    done
  else
    url=$(sed -n 's/^location: //Ip' <<<"$headers")
    while [ -n "$url" ] && [ "$(curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $arm_token" "$url")" = 202 ]; do sleep 1; done
  fi
}
sql() {
  PGHOST=$DATABASE_HOST PGPORT=$DATABASE_PORT PGUSER=$user PGSSLMODE=verify-full psql -d "$1" -X -q -t -A -v ON_ERROR_STOP=1 -c "$2"
}

# 1. Sign in
assertion=$(curl -sS --fail-with-body -H "Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" \
  "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$AUDIENCE" | value value)
arm_token=$(token "$ENVIRONMENT/.default")
PGPASSWORD=$(token "$POSTGRES_AUDIENCE/.default")
export PGPASSWORD
user=$(arm GET "$SERVER/administrators?api-version=$api" | value principalName)

# 2. The server's identity
operation PATCH "$SERVER?api-version=$api" '{"identity":{"type":"SystemAssigned"}}'
principal=$(arm GET "$SERVER?api-version=$api" | value principalId)
pause 30 # until Entra knows it

# 3. Its roles; one that is there already is fine
for scope in "${!roles[@]}"; do
  name=$(cat /proc/sys/kernel/random/uuid)
  body="{\"properties\":{\"roleDefinitionId\":\"/subscriptions/$(cut -d/ -f3 <<<"$scope")/providers/Microsoft.Authorization/roleDefinitions/${roles[$scope]}\",\"principalId\":\"$principal\",\"principalType\":\"ServicePrincipal\"}}"
  until answer=$(arm PUT "$scope/providers/Microsoft.Authorization/roleAssignments/$name?api-version=$role_api" "$body") || grep -q RoleAssignmentExists <<<"$answer"; do
    grep -q PrincipalNotFound <<<"$answer" || { echo "$answer" >&2; exit 1; }
    sleep 1
  done
done

# 4. The allow-list and the restart
list=$(arm GET "$SERVER/configurations/azure.extensions?api-version=$api" | value value)
grep -qi azure_ai <<<"$list" || list=${list:+$list,}azure_ai
operation PUT "$SERVER/configurations/azure.extensions?api-version=$api" "{\"properties\":{\"value\":\"$list\",\"source\":\"user-override\"}}"
operation POST "$SERVER/restart?api-version=$api"
pause 60 # until the roles have taken effect; Microsoft says up to ten minutes

# 5. The settings, and a test query each
endpoint_of() { arm GET "$1?api-version=$2" | value "$3"; }
openai_endpoint=$(endpoint_of "$OPENAI" 2025-09-01 endpoint)
cognitive_endpoint=$(endpoint_of "$COGNITIVE" 2025-09-01 endpoint)
region=$(endpoint_of "$TRANSLATOR" 2025-09-01 location)
scoring=$(endpoint_of "$MACHINE_LEARNING" 2022-10-01 scoringUri)
tested() {
  until sql "$1" "$2" >/dev/null 2>"${TMPDIR:-/tmp}/by-hand-$$"; do
    [ $SECONDS -lt 600 ] || { cat "${TMPDIR:-/tmp}/by-hand-$$" >&2; exit 1; }
    sleep 1
  done
}
while IFS= read -r database; do
  sql "$database" 'SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS azure_ai'
  sql "$database" "SELECT azure_ai.set_setting('azure_openai.auth_type', 'managed-identity'), azure_ai.set_setting('azure_openai.endpoint', '$openai_endpoint'),
    azure_ai.set_setting('azure_cognitive.auth_type', 'managed-identity'), azure_ai.set_setting('azure_cognitive.endpoint', '$cognitive_endpoint'),
    azure_ai.set_setting('azure_cognitive.region', '$region'), azure_ai.set_setting('azure_cognitive.translator_resource_id', '$TRANSLATOR'),
    azure_ai.set_setting('azure_ml.auth_type', 'managed-identity'), azure_ai.set_setting('azure_ml.scoring_endpoint', '$scoring')" >/dev/null
  tested "$database" "SELECT azure_openai.create_embeddings('text-embedding-3-small', 'hello')"
  tested "$database" "SELECT azure_cognitive.analyze_sentiment('good', 'en')"
  tested "$database" "SELECT azure_cognitive.translate('good', 'de')"
  tested "$database" "SELECT azure_ml.invoke('$MACHINE_LEARNING_INPUT'::jsonb)"
done <<<"$DATABASES"
