#include "pipeline/prompts.h"

#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "text/weighted_prompt.h"

enum { COMMA_REACH = 20 }; /* AUTOMATIC1111's comma_padding_backtrack */

/* -------------------------------------------------------------------------------- chunks */

/* A prompt's chunks, the last of them still open. */
struct chunks {
    struct words *words;
    int64_t length;
    int32_t comma;
    int32_t *ids;       /* [room] */
    float *weights;     /* [room] */
    int64_t room;       /* of both, in ids */
    int64_t closed;     /* chunks */
    int64_t used;       /* ids of the open chunk without its start */
    int64_t last_comma; /* their number when its last comma came; -1: it has none */
};

static int64_t room_of(const struct chunks *c)
{
    return c->length - 2;
}

/* Makes room for one chunk more than there are. */
static struct error grow(struct chunks *c)
{
    int64_t needed = (c->closed + 2) * c->length, room = 2 * needed;
    if (c->room >= needed)
        return ok();
    int32_t *ids = memory_alloc(room, sizeof *ids);
    float *weights = memory_alloc(room, sizeof *weights);
    if (!ids || !weights) {
        memory_free(ids);
        memory_free(weights);
        return error_memory("the prompt");
    }
    if (c->room) {
        memcpy(ids, c->ids, (size_t)c->room * sizeof *ids);
        memcpy(weights, c->weights, (size_t)c->room * sizeof *weights);
    }
    memory_free(c->ids);
    memory_free(c->weights);
    c->ids = ids;
    c->weights = weights;
    c->room = room;
    return ok();
}

/* The open chunk's first id after the start. */
static int64_t here(const struct chunks *c)
{
    return c->closed * c->length + 1;
}

static struct error close_chunk(struct chunks *c)
{
    int64_t first = here(c) - 1;
    TRY(grow(c));
    tokenizer_frame(c->words->tokenizer, c->ids + first, c->used, c->length);
    for (int64_t i = 0; i < c->length; i++)
        if (i < 1 || i > c->used)
            c->weights[first + i] = 1;
    c->closed++;
    c->used = 0;
    c->last_comma = -1;
    return ok();
}

/* The chunk is full: closes it after its last comma, and begins the next with what stood behind that. */
static struct error break_at_comma(struct chunks *c)
{
    int64_t kept = c->last_comma + 1, moved = c->used - kept, from = here(c) + kept;
    TRY(grow(c));
    int64_t to = here(c) + c->length;
    memcpy(c->ids + to, c->ids + from, (size_t)moved * sizeof *c->ids);
    memcpy(c->weights + to, c->weights + from, (size_t)moved * sizeof *c->weights);
    c->used = kept;
    TRY(close_chunk(c));
    c->used = moved;
    return ok();
}

/* The ids of one word; those of a learned one stay together. */
static struct error add_word(struct chunks *c, const int32_t *ids, int64_t count, float weight)
{
    int64_t room = room_of(c);
    if (count > room)
        return error_input("a word of %lld vectors does not fit into a chunk of %lld tokens", (long long)count,
                           (long long)room);
    if (ids[0] == c->comma)
        c->last_comma = c->used;
    else if (c->used == room && c->last_comma >= 0 && c->used - c->last_comma <= COMMA_REACH)
        TRY(break_at_comma(c));
    if (c->used + count > room)
        TRY(close_chunk(c));
    TRY(grow(c));
    for (int64_t i = 0; i < count; i++, c->used++) {
        c->ids[here(c) + c->used] = ids[i];
        c->weights[here(c) + c->used] = weight;
    }
    return ok();
}

static struct error add_text(struct chunks *c, const char *text, float weight)
{
    int64_t count;
    const struct tokenizer *t = c->words->tokenizer;
    TRY(tokenizer_pieces(t, text, NULL, 0, &count));
    int32_t *ids = memory_alloc(count, sizeof *ids);
    struct error e = ids ? tokenizer_pieces(t, text, ids, count, &count) : error_memory("the prompt");
    for (int64_t i = 0, size; i < count && e.code == ERROR_NONE; i += size) {
        size = tokenizer_word_at(t, ids + i, count - i);
        e = add_word(c, ids + i, size, weight);
    }
    memory_free(ids);
    return e;
}

/* -------------------------------------------------------------------------------- a weighed prompt */

static struct error add_parts(struct chunks *c, const struct weighted_prompt *p)
{
    for (int64_t i = 0; i < p->count; i++)
        if (p->items[i].is_break)
            TRY(close_chunk(c));
        else
            TRY(add_text(c, p->items[i].text, (float)p->items[i].weight));
    return c->used || c->closed == 0 ? close_chunk(c) : ok();
}

/* As AUTOMATIC1111 takes a comma: a piece of its own; other pieces end in one, too. */
static struct error find_comma(struct chunks *c)
{
    int64_t count;
    TRY(tokenizer_pieces(c->words->tokenizer, ",", &c->comma, 1, &count));
    c->comma = count == 1 ? c->comma : -1;
    return ok();
}

static struct error read_chunks(struct chunks *c, struct words *words, const struct prompt_source *source,
                                int64_t length)
{
    struct weighted_prompt parts;
    int64_t count;
    *c = (struct chunks){.words = words, .length = length, .last_comma = -1};
    if (room_of(c) < 1)
        return error_input("the model's tokenizer allows texts of no more than %lld tokens", (long long)length);
    TRY(tokenizer_pieces(words->tokenizer, source->text, NULL, 0, &count)); // refuses what is no text
    TRY(find_comma(c));
    struct error e = weighted_prompt_read(&parts, source->text, source->negative);
    if (e.code == ERROR_NONE)
        e = add_parts(c, &parts);
    weighted_prompt_free(&parts);
    for (int64_t i = 0; i < c->closed; i++)
        words_mark(words, c->ids + i * length, length);
    return e;
}

/* A lane of the prompts: its chunks, and empty ones after them. */
static struct error take_lane(struct prompts *p, int64_t lane, struct chunks *c)
{
    while (c->closed < p->chunks) {
        TRY(close_chunk(c));
        p->padded = true;
    }
    int64_t count = p->chunks * p->length;
    memcpy(p->ids + lane * count, c->ids, (size_t)count * sizeof *p->ids);
    memcpy(p->weights + lane * count, c->weights, (size_t)count * sizeof *p->weights);
    return ok();
}

/* lanes [p->lanes] */
static struct error join_lanes(struct prompts *p, struct chunks *lanes)
{
    bool weighed = false;
    for (int64_t l = 0; l < p->lanes; l++)
        p->chunks = lanes[l].closed > p->chunks ? lanes[l].closed : p->chunks;
    int64_t numbers = p->lanes * p->chunks * p->length;
    p->ids = memory_alloc(numbers, sizeof *p->ids);
    p->weights = memory_alloc(numbers, sizeof *p->weights);
    if (!p->ids || !p->weights)
        return error_memory("the prompt");
    for (int64_t l = 0; l < p->lanes; l++)
        TRY(take_lane(p, l, &lanes[l]));
    for (int64_t i = 0; i < numbers; i++)
        weighed = weighed || p->weights[i] != 1;
    if (!weighed) {
        memory_free(p->weights);
        p->weights = NULL;
    }
    return ok();
}

static struct error read_weighed(struct prompts *p, struct words *words, const struct prompt_source *sources)
{
    struct chunks *lanes = memory_alloc(p->lanes, sizeof *lanes);
    struct error e = lanes ? ok() : error_memory("the prompt");
    for (int64_t l = 0; l < p->lanes && e.code == ERROR_NONE; l++)
        e = error_in(read_chunks(&lanes[l], words, &sources[l], p->length), "%s", sources[l].option);
    if (e.code == ERROR_NONE)
        e = join_lanes(p, lanes);
    for (int64_t l = 0; l < p->lanes && lanes; l++) {
        memory_free(lanes[l].ids);
        memory_free(lanes[l].weights);
    }
    memory_free(lanes);
    return e;
}

/* -------------------------------------------------------------------------------- plain */

/* Said once. */
static void note_weights(const struct prompt_source *sources, int64_t lanes)
{
    for (int64_t l = 0; l < lanes; l++) {
        const char *part;
        int64_t bytes = weighted_prompt_find(sources[l].text, &part);
        if (bytes == 0)
            continue;
        int shown = text_fitting(part, bytes > 100 ? 100 : (int)bytes);
        log_line("%s: \"%.*s%s\" is taken literally; --prompt-syntax a1111 weighs it", sources[l].option, shown, part,
                 shown < bytes ? "..." : "");
        return;
    }
}

static struct error read_plain(struct prompts *p, struct words *words, const struct prompt_source *sources)
{
    p->chunks = 1;
    p->ids = memory_alloc(p->lanes * p->length, sizeof *p->ids);
    if (!p->ids)
        return error_memory("the prompt");
    for (int64_t l = 0; l < p->lanes; l++)
        TRY(words_encode(words, sources[l].option, sources[l].text, p->ids + l * p->length, p->length));
    note_weights(sources, p->lanes);
    return ok();
}

struct error prompts_read(struct prompts *p, struct words *words, const struct prompt_source *sources, int64_t lanes,
                          enum prompt_syntax syntax, int64_t length)
{
    *p = (struct prompts){.lanes = lanes, .length = length};
    return syntax == SYNTAX_PLAIN ? read_plain(p, words, sources) : read_weighed(p, words, sources);
}

void prompts_free(struct prompts *p)
{
    memory_free(p->ids);
    memory_free(p->weights);
    *p = (struct prompts){0};
}
