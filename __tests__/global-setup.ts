/** Runs once before all test files: their emulators share what takes long to make. */
import { shareAmongEmulators } from '../emulator/shared.ts'

export default shareAmongEmulators
