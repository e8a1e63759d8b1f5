/** What was opened is closed in the opposite order, each thing once, also when opening stopped half-way. */
export class CloseStack {
  private readonly steps: { readonly name: string; readonly close: () => Promise<void> | void }[] = [];

  push(name: string, close: () => Promise<void> | void): void {
    this.steps.push({ name, close });
  }

  /** Runs every step even when one fails; failures go to `onError`. */
  async close(onError: (name: string, error: unknown) => void): Promise<void> {
    for (let step = this.steps.pop(); step !== undefined; step = this.steps.pop()) {
      try {
        await step.close();
      } catch (error) {
        onError(step.name, error);
      }
    }
  }
}
