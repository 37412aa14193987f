/* tokenize FOLDER [--add WORD]... [--length N]
 *
 * Texts, one JSON string a line, from stdin -> their ids, one JSON array a line. With --length, as the text encoder
 * gets them (start, end, padding); without it, the bare pieces.
 */
#include <cjson/cJSON.h>
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

static struct error work(int argc, char **argv, char *line, int32_t *ids)
{
    if (argc < 2)
        return error_input("usage: tokenize FOLDER [--add WORD]... [--length N]");
    struct tokenizer *t;
    TRY(tokenizer_load(&t, argv[1]));
    struct error e = ok();
    int64_t length = 0;
    int32_t id;
    for (int i = 2; i + 1 < argc && e.code == ERROR_NONE; i += 2) {
        if (strcmp(argv[i], "--add") == 0)
            e = tokenizer_add(t, argv[i + 1], 1, &id);
        else
            length = atoll(argv[i + 1]);
    }
    while (e.code == ERROR_NONE && fgets(line, LINE, stdin))
        e = tokenize_line(t, line, length, ids);
    tokenizer_free(t);
    return e;
}

int main(int argc, char **argv)
{
    char *line = memory_alloc(LINE, 1);
    int32_t *ids = memory_alloc(ROOM, sizeof *ids);
    struct error e = line && ids ? work(argc, argv, line, ids) : error_memory("a line");
    memory_free(line);
    memory_free(ids);
    return helper_end("tokenize", e);
}
