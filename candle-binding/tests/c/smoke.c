/* The library as a C program sees it: compiled against the shipped header, linked to the shared library.
 * Usage: smoke MODEL_DIR [CALLS]. Exits 0 if all holds, else names the line. With CALLS it also makes that many calls and
 * checks that the process does not grow. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "candle_semantic_router.h"

#define CHECK(condition)                                                                      \
  do {                                                                                        \
    if (!(condition)) {                                                                       \
      const char *reason = candle_last_error();                                               \
      fprintf(stderr, "%s:%d: %s\n%s\n", __FILE__, __LINE__, #condition, reason ? reason : ""); \
      return 1;                                                                               \
    }                                                                                         \
  } while (0)

#define CHECK_REASON(part) CHECK(candle_last_error() != NULL && strstr(candle_last_error(), part) != NULL)

static const char *const INVALID = "caf\xe9";

/* Resident memory in kB, from Linux's /proc. */
static long resident_kb(void) {
  char line[256];
  long kb = -1;
  FILE *status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status))
    if (sscanf(line, "VmRSS: %ld", &kb) == 1) break;
  if (status) fclose(status);
  return kb;
}

/* A forgotten vector or list of tokens costs more than 128 bytes a call, for any model. */
static int check_memory(int calls) {
  long before = 0;
  for (int i = -calls / 10; i < calls; i++) {
    if (i == 0) before = resident_kb();
    EmbeddingResult embedding = get_text_embedding("you and me", 0);
    TokenizationResult tokens = tokenize_text("you and me", 0);
    SimilarityResult best = find_most_similar("you", (const char *const[]){"me"}, 1, 0);
    bool refused = get_text_embedding(INVALID, 0).error;
    CHECK(!embedding.error && !tokens.error && best.index == 0 && refused);
    free_embedding(embedding.data, embedding.length);
    free_tokenization_result(tokens);
  }
  long growth_kb = resident_kb() - before;
  fprintf(stderr, "%d calls: %ld kB more\n", calls, growth_kb);
  CHECK(before > 0 && growth_kb * 1024 < (long)calls * 128);
  return 0;
}

int main(int argc, char **argv) {
  CHECK(argc >= 2);
  CHECK(candle_semantic_router_abi_1() == CANDLE_SEMANTIC_ROUTER_ABI);

  /* Before there is a model. */
  CHECK(candle_last_error() == NULL);
  CHECK(!is_similarity_model_initialized());
  CHECK(get_text_embedding("text", 0).error);
  CHECK_REASON("init_similarity_model");
  CHECK(tokenize_text("text", 0).error);
  CHECK(isnan(calculate_similarity("a", "b", 0)));

  /* A failed start names the directory and may be repeated. */
  CHECK(!init_similarity_model("/nonexistent/model", true));
  CHECK_REASON("/nonexistent/model");
  CHECK(!init_similarity_model(NULL, true));
  CHECK_REASON("model_dir is NULL");
  CHECK(init_similarity_model(argv[1], true));
  CHECK(candle_last_error() == NULL);
  CHECK(is_similarity_model_initialized());
  CHECK(init_similarity_model("/nonexistent/model", true));

  EmbeddingResult embedding = get_text_embedding("", 0);
  CHECK(!embedding.error && embedding.sequence_length == 2);
  CHECK(embedding.model_type == CANDLE_MODEL_TYPE_BERT && embedding.length > 0);
  float squares = 0;
  for (int i = 0; i < embedding.length; i++) squares += embedding.data[i] * embedding.data[i];
  CHECK(fabsf(squares - 1) < 1e-5f);
  free_embedding(embedding.data, embedding.length);
  free_embedding(NULL, 0);
  free_embedding(NULL, 7);

  TokenizationResult tokens = tokenize_text("you and me", 4);
  CHECK(!tokens.error && tokens.token_count == 4);
  CHECK(strcmp(tokens.tokens[0], "[CLS]") == 0 && strcmp(tokens.tokens[3], "[SEP]") == 0);
  free_tokenization_result(tokens);
  free_tokenization_result((TokenizationResult){0});

  const char *candidates[] = {"nothing of it", "the same text"};
  SimilarityResult best = find_most_similar("the same text", candidates, 2, 0);
  CHECK(best.index == 1 && best.score > 0.999f);
  CHECK(calculate_similarity("same", "same", 0) > 0.999f);
  best = find_most_similar("query", NULL, 0, 0);
  CHECK(best.index == -1 && best.score == -1 && candle_last_error() == NULL);

  /* Bad arguments are errors. */
  candidates[1] = NULL;
  CHECK(get_text_embedding(NULL, 0).error);
  CHECK_REASON("text is NULL");
  CHECK(get_text_embedding(INVALID, 0).error);
  CHECK_REASON("UTF-8");
  CHECK(get_text_embedding("text", 1).error);
  CHECK_REASON("max_length 1");
  CHECK(tokenize_text(NULL, 0).error && tokenize_text(INVALID, 0).error);
  CHECK(isnan(calculate_similarity("a", NULL, 0)) && isnan(calculate_similarity(INVALID, "b", 0)));
  CHECK(find_most_similar(NULL, candidates, 1, 0).index == -1);
  CHECK(find_most_similar("query", NULL, 2, 0).index == -1);
  CHECK_REASON("candidates is NULL");
  CHECK(find_most_similar("query", candidates, 2, 0).index == -1);
  CHECK(find_most_similar("query", candidates, -3, 0).index == -1);
  CHECK_REASON("-3");

  /* By handle; a stale one is an error. */
  CandleModel model = candle_model_open(argv[1], true);
  CHECK(model != 0);
  embedding = candle_model_embed(model, "text", 0);
  CHECK(!embedding.error);
  free_embedding(embedding.data, embedding.length);
  tokens = candle_model_tokenize(model, "text", 0);
  CHECK(!tokens.error && tokens.token_count >= 3);
  free_tokenization_result(tokens);
  CHECK(candle_model_close(model));
  CHECK(!candle_model_close(model) && !candle_model_close(0));
  CHECK(candle_model_embed(model, "text", 0).error);
  CHECK_REASON("no open model");
  CHECK(candle_model_tokenize(model, "text", 0).error);
  CHECK(candle_model_open(INVALID, true) == 0);
  return argc > 2 ? check_memory(atoi(argv[2])) : 0;
}
