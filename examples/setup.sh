#!/usr/bin/env bash
# Creates everything that the workflows of this repository need, once: two apps that trust them, the resources of infra/, the
# apps' rights in Azure, and the variables of the repository. There is no secret in it. Run it again after a change of infra/.
#
# Needs az (2.86 or newer, signed in as a user: az login) and gh (signed in: gh auth login), and the right to create app
# registrations and to assign roles in the resource group. The user becomes an Entra administrator of the servers, for reader.sh.
set -euo pipefail
cd "$(dirname "$0")"

REPO=${REPO:-$(gh repo view --json nameWithOwner --jq .nameWithOwner)} # owner/name of the repository with the workflows
GROUP=${GROUP:-azure-ai-example}
LOCATION=${LOCATION:-swedencentral}

# The writer runs in jobs of the environment `production` alone: what applies there waits for the environment's reviewers.
# The reader runs in every other job of the main branch and of pull requests. Whoever may push a branch can therefore act as the
# reader, so it is no administrator of the servers: reader.sh gives it a role that can connect and see the settings.
export WRITER_NAME=azure-ai-writer

variable() {
  gh variable set "$1" --repo "$REPO" --body "$2"
}

# app NAME VARIABLE: the object id of an app's service principal. The client id is kept in a variable of the repository: an app is
# never looked up by its name, because everybody in the tenant may have created one with the same name.
app() {
  local id
  id=$(gh variable get "$2" --repo "$REPO" 2>/dev/null) || id=
  if [ -z "$id" ]; then
    id=$(az ad app create --display-name "$1" --query appId --output tsv)
    variable "$2" "$id" >&2
  fi
  az ad sp show --id "$id" --query id --output tsv 2>/dev/null || az ad sp create --id "$id" --query id --output tsv
}

# trust APP-ID NAME SUBJECT
trust() {
  az ad app federated-credential list --id "$1" --query '[].name' --output tsv | grep -qx "$2" ||
    az ad app federated-credential create --id "$1" --output none --parameters '{
      "name": "'"$2"'",
      "issuer": "https://token.actions.githubusercontent.com",
      "subject": "'"$3"'",
      "audiences": ["api://AzureADTokenExchange"]
    }'
}

# role NAME ACTION..: a custom role of the resource group, created where it is missing
role() {
  local name=$1 actions
  shift
  [ -z "$(az role definition list --name "$name" --custom-role-only true --query '[0].id' --output tsv)" ] || return 0
  actions=$(printf '"%s",' "$@")
  az role definition create --output none --role-definition '{
    "Name": "'"$name"'",
    "Description": "For the workflows that look after azure_ai.",
    "Actions": ['"${actions%,}"'],
    "AssignableScopes": ["'"$GROUP_ID"'"]
  }'
}

# assign OBJECT-ID ROLE SCOPE
assign() {
  az role assignment create --assignee-object-id "$1" --assignee-principal-type ServicePrincipal --role "$2" --scope "$3" --output none
}

WRITER_OBJECT_ID=$(app "$WRITER_NAME" AZURE_CLIENT_ID)
READER_OBJECT_ID=$(app azure-ai-reader AZURE_READER_CLIENT_ID)
export WRITER_OBJECT_ID
WRITER_ID=$(az ad sp show --id "$WRITER_OBJECT_ID" --query appId --output tsv)
READER_ID=$(az ad sp show --id "$READER_OBJECT_ID" --query appId --output tsv)
PERSON_OBJECT_ID=$(az ad signed-in-user show --query id --output tsv)
PERSON_NAME=$(az ad signed-in-user show --query userPrincipalName --output tsv)
export PERSON_OBJECT_ID PERSON_NAME
trust "$WRITER_ID" github-production "repo:$REPO:environment:production"
trust "$READER_ID" github-main "repo:$REPO:ref:refs/heads/main"
trust "$READER_ID" github-pull-request "repo:$REPO:pull_request"

az group create --name "$GROUP" --location "$LOCATION" --output none
DEPLOYMENT=$(az deployment group create --resource-group "$GROUP" --name azure-ai --parameters infra/main.bicepparam --query properties.outputs --output json)
GROUP_ID=$(az group show --name "$GROUP" --query id --output tsv)

output() {
  node -p "JSON.parse(process.argv[1]).$1" "$DEPLOYMENT"
}
read -ra SERVER_IDS <<<"$(output 'serverIds.value.join(" ")')"
OPENAI_ID=$(output openaiId.value)
LANGUAGE_ID=$(output languageId.value)

# Bicep gave the servers their identity, their roles and the allow-list. So both apps only read, and the writer restarts as
# well: it can neither change a server nor assign a role. A new role takes a minute until it can be assigned.
role "azure_ai identity: check in $GROUP" \
  Microsoft.DBforPostgreSQL/flexibleServers/read \
  Microsoft.DBforPostgreSQL/flexibleServers/replicas/read \
  Microsoft.DBforPostgreSQL/flexibleServers/administrators/read \
  Microsoft.DBforPostgreSQL/flexibleServers/configurations/read \
  Microsoft.CognitiveServices/accounts/read \
  Microsoft.CognitiveServices/accounts/deployments/read \
  Microsoft.MachineLearningServices/workspaces/onlineEndpoints/read \
  Microsoft.MachineLearningServices/workspaces/serverlessEndpoints/read \
  Microsoft.Authorization/roleAssignments/read
role "azure_ai identity: restart in $GROUP" \
  Microsoft.DBforPostgreSQL/flexibleServers/restart/action
for SCOPE in "${SERVER_IDS[@]}" "$OPENAI_ID" "$LANGUAGE_ID"; do
  assign "$WRITER_OBJECT_ID" "azure_ai identity: check in $GROUP" "$SCOPE"
  assign "$READER_OBJECT_ID" "azure_ai identity: check in $GROUP" "$SCOPE"
done
for SCOPE in "${SERVER_IDS[@]}"; do
  assign "$WRITER_OBJECT_ID" "azure_ai identity: restart in $GROUP" "$SCOPE"
done

gh api --method PUT "repos/$REPO/environments/production" --silent # add reviewers: Settings > Environments
variable AZURE_TENANT_ID "$(az account show --query tenantId --output tsv)"
variable AZURE_SUBSCRIPTION_ID "$(az account show --query id --output tsv)"
variable AZURE_CLIENT_ID "$WRITER_ID"
variable AZURE_READER_CLIENT_ID "$READER_ID"
variable PG_RESOURCE_GROUP "$GROUP"
variable PG_SERVER_ID "${SERVER_IDS[0]}"
variable OPENAI_ID "$OPENAI_ID"
variable LANGUAGE_ID "$LANGUAGE_ID"
