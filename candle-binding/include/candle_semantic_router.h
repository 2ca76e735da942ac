/*
 * candle_semantic_router: sentence embeddings, similarity and tokenization.
 *
 * This header is the contract of libcandle_semantic_router and its manual. The library never opens a socket; a model is
 * a directory with config.json, tokenizer.json and model.safetensors.
 *
 * Text      Texts and paths are NUL-terminated UTF-8, borrowed for the call. NULL and invalid UTF-8 are errors.
 * Memory    What a result points to belongs to the caller until it is given to the free function named beside it, with
 *           the length that came with it. Never use C's free. The free functions accept NULL and length 0.
 * Threads   Every function may be called from any number of threads at once. A model is immutable once it is open.
 * Errors    A function that fails says so in its result, and candle_last_error tells why. No failure ends the process:
 *           a panic inside the library is caught at this border and becomes an error.
 * Lengths   max_length counts tokens, the special ones included. 0 or less means the model's own limit (the first of
 *           sentence_bert_config.json, tokenizer_config.json and the number of positions); a larger value than the
 *           model has positions means all of them.
 * Vectors   Embeddings are float32 of length 1, so the cosine of two is their dot product.
 */
#ifndef CANDLE_SEMANTIC_ROUTER_H
#define CANDLE_SEMANTIC_ROUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define CANDLE_ASSERT(condition) static_assert(condition, #condition)
#else
#define CANDLE_ASSERT(condition) _Static_assert(condition, #condition)
#endif

/* The version of this contract. */
#define CANDLE_SEMANTIC_ROUTER_ABI 1

/*
 * Returns CANDLE_SEMANTIC_ROUTER_ABI. The version is in the name so that a program built against this header does not
 * link, or load, with a library of another version. A program calls it once to have it referenced.
 */
uint32_t candle_semantic_router_abi_1(void);

/*
 * Why the last call of this thread failed: the subject, the causes, and what to do. NULL if it succeeded. The text stays
 * valid until this thread calls the library again; this function itself and candle_semantic_router_abi_1 do not count.
 */
const char *candle_last_error(void);

/* ---- Results ---------------------------------------------------------------------------------------------------- */

/* EmbeddingResult.model_type. */
enum { CANDLE_MODEL_TYPE_NONE = -1, CANDLE_MODEL_TYPE_BERT = 2 };

typedef struct {
  float *data;              /* length values; free_embedding. NULL on error. */
  int length;               /* the model's dimension */
  bool error;
  int model_type;           /* CANDLE_MODEL_TYPE_*; 0 and 1 are kept for Qwen3 and Gemma */
  int sequence_length;      /* tokens the model saw, after truncation */
  float processing_time_ms;
} EmbeddingResult;

typedef struct {
  int *token_ids;           /* token_count values */
  int token_count;
  char **tokens;            /* token_count strings, as the vocabulary has them */
  bool error;
} TokenizationResult;       /* the whole struct goes to free_tokenization_result */

typedef struct {
  int index;                /* of the best candidate; -1 on error or if there are none */
  float score;              /* its cosine; -1 if there is none */
} SimilarityResult;

/* The library asserts the same sizes and offsets. */
CANDLE_ASSERT(sizeof(EmbeddingResult) == 32);
CANDLE_ASSERT(offsetof(EmbeddingResult, length) == 8);
CANDLE_ASSERT(offsetof(EmbeddingResult, error) == 12);
CANDLE_ASSERT(offsetof(EmbeddingResult, model_type) == 16);
CANDLE_ASSERT(offsetof(EmbeddingResult, sequence_length) == 20);
CANDLE_ASSERT(offsetof(EmbeddingResult, processing_time_ms) == 24);
CANDLE_ASSERT(sizeof(TokenizationResult) == 32);
CANDLE_ASSERT(offsetof(TokenizationResult, token_count) == 8);
CANDLE_ASSERT(offsetof(TokenizationResult, tokens) == 16);
CANDLE_ASSERT(offsetof(TokenizationResult, error) == 24);
CANDLE_ASSERT(sizeof(SimilarityResult) == 8);
CANDLE_ASSERT(offsetof(SimilarityResult, score) == 4);

void free_embedding(float *data, int length);
void free_tokenization_result(TokenizationResult result);

/* ---- Models by handle ------------------------------------------------------------------------------------------- */

/*
 * An open model; never 0, and never used twice. A handle that is closed or made up is an error, not a crash. Closing
 * does not disturb calls that are under way: the model goes when the last of them returns.
 */
typedef uint64_t CandleModel;

/* Opens the model in model_dir. With use_cpu false it runs on the first CUDA device if the library was built with the
 * cuda feature and there is one, else on the CPU. 0 on error. */
CandleModel candle_model_open(const char *model_dir, bool use_cpu);

/* False if there is no such model. */
bool candle_model_close(CandleModel model);

EmbeddingResult candle_model_embed(CandleModel model, const char *text, int max_length);
TokenizationResult candle_model_tokenize(CandleModel model, const char *text, int max_length);

/* ---- The similarity model: one for the process, opened once and never closed ------------------------------------ */

/* Opens it; the parameters are those of candle_model_open. True if it is ready. If it already was, the first model stays
 * and the parameters are not looked at. After a failure it may be called again. */
bool init_similarity_model(const char *model_dir, bool use_cpu);
bool is_similarity_model_initialized(void);

TokenizationResult tokenize_text(const char *text, int max_length);
EmbeddingResult get_text_embedding(const char *text, int max_length);

/* The cosine of two texts; NaN on error. */
float calculate_similarity(const char *text1, const char *text2, int max_length);

/* The candidate nearest to query, the first of equals. No candidates: index -1, score -1, and not an error. */
SimilarityResult find_most_similar(const char *query, const char *const *candidates, int num_candidates,
                                   int max_length);

#ifdef __cplusplus
}
#endif

#endif
