#!/usr/bin/env bash
# Makes everything that the workflows of this repository need, once: two apps that trust them, the resources of infra/, the
# apps' rights, and the variables of the repository. There is no secret in it. Run it again after a change of infra/.
#
# Needs az (2.86 or newer, signed in: az login) and gh (signed in: gh auth login), and somebody who may create app
# registrations and assign roles in the resource group.
set -euo pipefail
cd "$(dirname "$0")"

REPO=${REPO:-$(gh repo view --json nameWithOwner --jq .nameWithOwner)} # owner/name of the repository with the workflows
GROUP=${GROUP:-azure-ai-example}
LOCATION=${LOCATION:-swedencentral}

# The writer runs in jobs of the environment `production` alone: what applies there waits for the environment's reviewers.
# The reader runs in every other job of the main branch and of pull requests.
export WRITER_NAME=azure-ai-writer READER_NAME=azure-ai-reader

# The object id of an app's service principal; app and principal are made where they are missing.
app() {
  local id
  id=$(az ad app list --filter "displayName eq '$1'" --query '[0].appId' --output tsv)
  [ -n "$id" ] || id=$(az ad app create --display-name "$1" --query appId --output tsv)
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

# assign OBJECT-ID ROLE SCOPE
assign() {
  az role assignment create --assignee-object-id "$1" --assignee-principal-type ServicePrincipal --role "$2" --scope "$3" --output none
}

WRITER_OBJECT_ID=$(app "$WRITER_NAME")
READER_OBJECT_ID=$(app "$READER_NAME")
export WRITER_OBJECT_ID READER_OBJECT_ID
WRITER_ID=$(az ad sp show --id "$WRITER_OBJECT_ID" --query appId --output tsv)
READER_ID=$(az ad sp show --id "$READER_OBJECT_ID" --query appId --output tsv)
trust "$WRITER_ID" github-production "repo:$REPO:environment:production"
trust "$READER_ID" github-main "repo:$REPO:ref:refs/heads/main"
trust "$READER_ID" github-pull-request "repo:$REPO:pull_request"

az group create --name "$GROUP" --location "$LOCATION" --output none
DEPLOYMENT=$(az deployment group create --resource-group "$GROUP" --name azure-ai --parameters infra/main.bicepparam --query properties.outputs --output json)
GROUP_ID=$(az group show --name "$GROUP" --query id --output tsv)

# Bicep gave the servers their identity, their roles and the allow-list, so the writer needs no right to assign roles:
# only to restart the servers.
assign "$WRITER_OBJECT_ID" Contributor "$GROUP_ID"
assign "$READER_OBJECT_ID" Reader "$GROUP_ID"

gh api --method PUT "repos/$REPO/environments/production" --silent # add reviewers: Settings > Environments
variable() {
  gh variable set "$1" --repo "$REPO" --body "$2"
}
output() {
  node -p "JSON.parse(process.argv[1]).$1" "$DEPLOYMENT"
}
variable AZURE_TENANT_ID "$(az account show --query tenantId --output tsv)"
variable AZURE_SUBSCRIPTION_ID "$(az account show --query id --output tsv)"
variable AZURE_CLIENT_ID "$WRITER_ID"
variable AZURE_READER_CLIENT_ID "$READER_ID"
variable PG_RESOURCE_GROUP "$GROUP"
variable PG_SERVER_ID "$(output 'serverIds.value[0]')"
variable OPENAI_ID "$(output openaiId.value)"
variable LANGUAGE_ID "$(output languageId.value)"
