/** Azure's built-in roles that azure_ai needs: GUIDs and names, from Microsoft's list of built-in roles. */

export interface BuiltInRole {
  /** GUID, lower case. */
  readonly id: string
  readonly name: string
}

/** The role that the server's identity needs, by what it calls. */
export const azureRoles = {
  openai: { id: '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd', name: 'Cognitive Services OpenAI User' },
  cognitive: { id: 'a97b65f3-24c7-4388-baec-2e87135dc908', name: 'Cognitive Services User' },
  machineLearning: { id: 'f6c7c914-8db3-469d-8ca1-694a8f32e121', name: 'AzureML Data Scientist' },
} as const satisfies Record<string, BuiltInRole>
