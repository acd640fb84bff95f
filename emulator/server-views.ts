/** How Resource Manager shows a flexible server and what belongs to it. */
import type { Server, World } from './world.ts'

export const serverType = 'Microsoft.DBforPostgreSQL/flexibleServers'

/** Extensions that the allow-list of a flexible server of version 18 accepts. */
export const knownExtensions = new Set(
  'address_standardizer age amcheck anon azure_ai azure_storage bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance fuzzystrmatch hstore hypopg intarray isn lo login_hook ltree oracle_fdw orafce pageinspect pg_buffercache pg_cron pg_diskann pg_freespacemap pg_hint_plan pg_partman pg_prewarm pg_repack pg_squeeze pg_stat_statements pg_trgm pg_visibility pgaudit pgcrypto pglogical pgrouting pgrowlocks pgstattuple plpgsql plv8 postgis postgis_raster postgis_sfcgal postgis_tiger_geocoder postgis_topology postgres_fdw semver session_variable sslinfo tablefunc tds_fdw timescaledb tsm_system_rows tsm_system_time unaccent uuid-ossp vector'.split(
    ' ',
  ),
)

export function shownServer(world: World, server: Server, hidesPrincipal = false): Record<string, unknown> {
  const { identity } = server
  const { principalId, ...rest } = identity ?? {}
  const shownIdentity = hidesPrincipal || principalId === undefined ? rest : { ...rest, principalId, tenantId: world.tenantId }
  return {
    sku: { name: 'Standard_D2ds_v5', tier: 'GeneralPurpose' },
    ...(identity === undefined ? {} : { identity: shownIdentity }),
    systemData: { createdAt: '2025-11-03T08:12:31.0000000Z', createdByType: 'User', createdBy: 'admin@contoso.example' },
    properties: {
      replica: {
        role: server.replicationRole,
        capacity: 5,
        ...(server.replicationRole === 'AsyncReplica' ? { replicationState: 'Active' } : {}),
      },
      storage: { type: '', iops: 500, tier: 'P10', storageSizeGB: 128, autoGrow: 'Disabled' },
      network: server.network,
      dataEncryption: { type: 'SystemManaged' },
      authConfig: { ...server.authConfig, tenantId: world.tenantId },
      fullyQualifiedDomainName: server.fullyQualifiedDomainName,
      backup: {
        backupRetentionDays: 7,
        geoRedundantBackup: 'Disabled',
        earliestRestoreDate: '2026-11-17T09:00:00.0000000+00:00',
      },
      highAvailability: server.highAvailability ?? { mode: 'Disabled', state: 'NotEnabled' },
      maintenanceWindow: { customWindow: 'Disabled', dayOfWeek: 0, startHour: 0, startMinute: 0 },
      replicationRole: server.replicationRole,
      replicaCapacity: 5,
      administratorLogin: 'pgadmin',
      availabilityZone: '1',
      version: server.version,
      minorVersion: server.version === '18' ? '1' : '5',
      state: server.state,
      privateEndpointConnections: [],
      ...(server.sourceServerResourceId === undefined ? {} : { sourceServerResourceId: server.sourceServerResourceId }),
      ...(server.clusterSize === undefined
        ? {}
        : { cluster: { clusterSize: server.clusterSize, defaultDatabaseName: 'postgres' } }),
    },
    location: server.location,
    tags: {},
    id: server.id,
    name: server.name,
    type: serverType,
  }
}

export function shownAdministrator(
  world: World,
  server: Server,
  administrator: Server['administrators'][number],
): Record<string, unknown> {
  return {
    properties: { ...administrator, tenantId: world.tenantId },
    id: `${server.id}/administrators/${administrator.objectId}`,
    name: administrator.objectId,
    type: `${serverType}/administrators`,
  }
}

/** Read-only: the identity that the running process knows, empty before the first restart with one. */
export const runningIdentity = 'azure.service_principal_id'

export function configurationNames(world: World, server: Server): string[] {
  return [...Object.keys(server.configurations), ...(world.switches.armIdentity === 'unknown' ? [] : [runningIdentity])]
}

export function shownConfiguration(world: World, server: Server, name: string): Record<string, unknown> {
  const isRunningIdentity = name === runningIdentity
  const identity = world.switches.armIdentity === 'running' ? (server.loadedPrincipalId ?? '') : ''
  const configuration = isRunningIdentity ? { value: identity, source: 'system-default' } : server.configurations[name]
  const list = name === 'azure.extensions'
  return {
    properties: {
      value: configuration?.value ?? '',
      source: configuration?.source ?? 'system-default',
      description: list ? 'Specifies which extensions are allowed to be created in the server.' : `Server parameter ${name}.`,
      defaultValue: '',
      dataType: list ? 'Set' : 'String',
      allowedValues: list ? [...knownExtensions].join(',') : '.*',
      isDynamicConfig: true,
      isReadOnly: isRunningIdentity,
      isConfigPendingRestart: false,
    },
    id: `${server.id}/configurations/${name}`,
    name,
    type: `${serverType}/configurations`,
  }
}

export function shownRule(server: Server, name: string): Record<string, unknown> {
  return {
    properties: { ...server.firewallRules[name] },
    id: `${server.id}/firewallRules/${name}`,
    name,
    type: `${serverType}/firewallRules`,
  }
}
