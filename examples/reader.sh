#!/usr/bin/env bash
# Gives the reader its role in the databases: it may connect and see the settings through one function, which shows no key.
# Run it once after the first apply, as the user who ran setup.sh. It stops where a schema azure_ai_identity is there already,
# since the owner of that schema decides what the reader sees. For a database that came later: ./reader.sh SERVER DATABASE
#
# Needs az and gh (signed in), and psql 16 or newer, on a machine that reaches the servers: Azure Cloud Shell does.
set -euo pipefail
cd "$(dirname "$0")"

REPO=${REPO:-$(gh repo view --json nameWithOwner --jq .nameWithOwner)} # as for setup.sh
GROUP=${GROUP:-azure-ai-example}
OBJECT_ID=$(az ad sp show --id "$(gh variable get AZURE_READER_CLIENT_ID --repo "$REPO")" --query id --output tsv)

# The token goes to psql in the environment, not on the command line. The certificate of the server is verified.
PGUSER=$(az ad signed-in-user show --query userPrincipalName --output tsv)
PGPASSWORD=$(az account get-access-token --resource-type oss-rdbms --query accessToken --output tsv)
export PGUSER PGPASSWORD PGSSLMODE=verify-full PGSSLROOTCERT=system

# run SERVER DATABASE FILE: the statements of a file as one transaction
run() {
  local host
  host=$(az postgres flexible-server show --resource-group "$GROUP" --name "$1" --query fullyQualifiedDomainName --output tsv)
  echo "$1, database $2: $3"
  sed "s/OBJECT-ID/$OBJECT_ID/" "$3" |
    psql --host "$host" --dbname "$2" --no-psqlrc --quiet --output /dev/null --set ON_ERROR_STOP=1 --single-transaction --file -
}

if [ $# -eq 2 ]; then
  run "$1" "$2" sql/reader-in-each-database.sql
  exit
fi
for SERVER in $(az postgres flexible-server list --resource-group "$GROUP" --query '[].name' --output tsv); do
  run "$SERVER" postgres sql/reader-in-postgres.sql
  for DATABASE in $(az postgres flexible-server db list --resource-group "$GROUP" --server-name "$SERVER" \
    --query "[?name!='postgres' && name!='azure_sys' && name!='azure_maintenance'].name" --output tsv); do
    run "$SERVER" "$DATABASE" sql/reader-in-each-database.sql
  done
done
