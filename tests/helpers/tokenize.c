/* tokenize FOLDER [--add WORD | --derive WORD]... [--length N]
 *
 * Texts, one JSON string a line, from stdin -> their ids, one JSON array a line. With --length, as the text encoder
 * gets them (start, end, padding); without it, the bare pieces. --derive makes a tokenizer of its own with a word, from
 * the folder's and the words added so far; the ids of a text by each of them follow, a line each, those by the folder's.
 */
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "helper.h"
#include "text/tokenizer.h"

enum { ROOM = 1 << 16, LINE = 1 << 20 };

static struct error tokenize_line(const struct tokenizer *t, const char *line, int64_t length, int32_t *ids)
{
    cJSON *text = cJSON_Parse(line);
    if (!cJSON_IsString(text)) {
        cJSON_Delete(text);
        return error_input("expected a JSON string on every line");
    }
    int64_t count = length;
    struct error e = length ? tokenizer_encode(t, text->valuestring, ids, length)
                            : tokenizer_pieces(t, text->valuestring, ids, ROOM, &count);
    cJSON_Delete(text);
    if (e.code != ERROR_NONE)
        return e;
    printf("[");
    for (int64_t i = 0; i < count; i++)
        printf(i ? ", %d" : "%d", ids[i]);
    printf("]\n");
    return ok();
}

static struct error add_words(struct tokenizer **all, int *count, int64_t *length, int argc, char **argv)
{
    int32_t id;
    for (int i = 2; i + 1 < argc; i += 2) {
        bool derive = strcmp(argv[i], "--derive") == 0;
        if (!derive && strcmp(argv[i], "--add") != 0) {
            *length = atoll(argv[i + 1]);
            continue;
        }
        if (derive) {
            TRY(tokenizer_derive(&all[*count], all[0]));
            ++*count;
        }
        TRY(tokenizer_add(all[derive ? *count - 1 : 0], argv[i + 1], 1, &id));
    }
    return ok();
}

static struct error work(int argc, char **argv, char *line, int32_t *ids, struct tokenizer **all)
{
    if (argc < 2)
        return error_input("usage: tokenize FOLDER [--add WORD | --derive WORD]... [--length N]");
    TRY(tokenizer_load(&all[0], argv[1]));
    int count = 1;
    int64_t length = 0;
    struct error e = add_words(all, &count, &length, argc, argv);
    while (e.code == ERROR_NONE && fgets(line, LINE, stdin))
        for (int i = 0; i < count && e.code == ERROR_NONE; i++)
            e = tokenize_line(all[i], line, length, ids);
    for (int i = count - 1; i >= 0; i--)
        tokenizer_free(all[i]);
    return e;
}

int main(int argc, char **argv)
{
    char *line = memory_alloc(LINE, 1);
    int32_t *ids = memory_alloc(ROOM, sizeof *ids);
    struct tokenizer **all = memory_alloc(argc, sizeof *all);
    struct error e = line && ids && all ? work(argc, argv, line, ids, all) : error_memory("a line");
    memory_free(all);
    memory_free(line);
    memory_free(ids);
    return helper_end("tokenize", e);
}
