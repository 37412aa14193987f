/* prompts MODEL_DIR [EMBEDDING]...
 *
 * Prompts in AUTOMATIC1111's syntax, a JSON array ["negative prompt", "prompt"] a line, from stdin -> what the text encoder
 * gets for both, a JSON object a line: "ids" and "weights", each [2 prompts][chunks * length] in order, "chunks" and
 * "padded"; or "error".
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

#include "helper.h"
#include "model/text_encoder.h"
#include "pipeline/prompts.h"

enum { LINE = 1 << 20 };

static void print_prompts(const struct prompts *p)
{
    int64_t count = p->lanes * p->chunks * p->length;
    printf("{\"chunks\": %lld, \"padded\": %s, \"ids\": [", (long long)p->chunks, p->padded ? "true" : "false");
    for (int64_t i = 0; i < count; i++)
        printf(i ? ", %d" : "%d", p->ids[i]);
    printf("], \"weights\": [");
    for (int64_t i = 0; i < count; i++)
        printf(i ? ", %.9g" : "%.9g", p->weights ? (double)p->weights[i] : 1.0);
    printf("]}\n");
}

static struct error read_line(struct words *words, const char *line, int64_t length)
{
    cJSON *both = cJSON_Parse(line);
    const struct prompt_source sources[] = {
        {"--negative", cJSON_GetStringValue(cJSON_GetArrayItem(both, 0)), true},
        {"--prompt", cJSON_GetStringValue(cJSON_GetArrayItem(both, 1)), false},
    };
    struct prompts p = {0};
    struct error e = sources[0].text && sources[1].text
                         ? prompts_read(&p, words, sources, 2, SYNTAX_A1111, length)
                         : error_failed("expected [\"negative prompt\", \"prompt\"] on every line");
    cJSON_Delete(both);
    if (e.code == ERROR_NONE)
        print_prompts(&p);
    prompts_free(&p);
    if (e.code != ERROR_BAD_INPUT)
        return e;
    char text[2 * sizeof e.text];
    text_as_json(text, sizeof text, e.text);
    printf("{\"error\": %s}\n", text);
    return ok();
}

static struct error work(int argc, char **argv, char *line)
{
    struct tokenizer *tokenizer;
    struct text_config config;
    struct words words;
    char folder[4096];
    if (argc < 2)
        return error_input("usage: prompts MODEL_DIR [EMBEDDING]...");
    snprintf(folder, sizeof folder, "%s/tokenizer", argv[1]);
    TRY(text_config_read(&config, argv[1]));
    TRY(tokenizer_load(&tokenizer, folder));
    const struct text_list sources = {(const char **)argv + 2, argc - 2};
    struct error e = words_read(&words, &sources, tokenizer, config.width);
    while (e.code == ERROR_NONE && fgets(line, LINE, stdin))
        e = read_line(&words, line, tokenizer_length(tokenizer, config.positions));
    words_free(&words);
    tokenizer_free(tokenizer);
    return e;
}

int main(int argc, char **argv)
{
    char *line = memory_alloc(LINE, 1);
    struct error e = line ? work(argc, argv, line) : error_memory("a line");
    memory_free(line);
    return helper_end("prompts", e);
}
