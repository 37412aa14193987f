#include "text/weighted_prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "text/characters.h"

static const double more = 1.1, less = 1 / 1.1;
static const double break_weight = -1; // what AUTOMATIC1111 knows a BREAK by; brackets multiply it

/* -------------------------------------------------------------------------------- characters */

static int64_t skip_space(const char *text)
{
    int64_t at = 0;
    for (int32_t c; text[at];) {
        int64_t size = character_read(text + at, &c);
        if (character_kind(c) != CHARACTER_SPACE)
            break;
        at += size;
    }
    return at;
}

/* Whether a character is one of a word, as regular expressions see it. */
static bool is_word(const char *text)
{
    int32_t c;
    if (!*text)
        return false;
    character_read(text, &c);
    enum character_kind kind = character_kind(c);
    return c == '_' || kind == CHARACTER_LETTER || kind == CHARACTER_NUMBER;
}

/* The beginning of the character before `at`. */
static const char *before(const char *text, const char *at)
{
    do
        at--;
    while (at > text && ((unsigned char)*at & 0xc0) == 0x80);
    return at;
}

/* Where a word of its own first stands in the `bytes` bytes of a text, or NULL. */
static const char *find_word(const char *text, int64_t bytes, const char *word)
{
    size_t size = strlen(word);
    for (const char *at = text; (at = strstr(at, word)) && at + size <= text + bytes; at += size) {
        bool begins = at == text || !is_word(before(text, at));
        bool ends = at + size == text + bytes || !is_word(at + size);
        if (begins && ends)
            return at;
    }
    return NULL;
}

/* ":1.3)" with blanks around the number: its bytes, or 0; *number is where the digits begin, `digits` bytes. */
static int64_t read_weight(const char *text, const char **number, int *digits)
{
    if (*text != ':')
        return 0;
    int64_t from = 1 + skip_space(text + 1), at = from;
    if (text[at] == '+' || text[at] == '-')
        at++;
    int64_t size = (int64_t)strspn(text + at, ".0123456789");
    *number = text + from;
    *digits = (int)(at + size - from);
    at += size + skip_space(text + at + size);
    return size && text[at] == ')' ? at + 1 : 0;
}

/* -------------------------------------------------------------------------------- parts */

static struct error add_part(struct weighted_prompt *p, const char *text, int64_t bytes, double weight)
{
    struct weighted_part *wider = memory_grow(p->items, p->count, &p->room, sizeof *wider);
    if (!wider)
        return error_memory("the prompt");
    p->items = wider;
    char *copy = memory_alloc(bytes + 1, 1);
    if (!copy)
        return error_memory("the prompt");
    memcpy(copy, text, (size_t)bytes);
    p->items[p->count++] = (struct weighted_part){.text = copy, .weight = weight};
    return ok();
}

/* Text without brackets, cut at every BREAK, which takes the white space around it along. */
static struct error add_text(struct weighted_prompt *p, const char *text, int64_t bytes)
{
    static const char name[] = "BREAK";
    for (const char *at; (at = find_word(text, bytes, name));) {
        const char *end = at + strlen(name), *next = end + skip_space(end);
        next = next > text + bytes ? text + bytes : next;
        for (const char *c = at; c > text && (c = before(text, c), skip_space(c) > 0);)
            at = c;
        TRY(add_part(p, text, at - text, 1));
        TRY(add_part(p, name, (int64_t)strlen(name), break_weight));
        bytes -= next - text;
        text = next;
    }
    return add_part(p, text, bytes, 1);
}

/* Places of open brackets of a kind: each begins with the part of that number. */
struct brackets {
    int64_t *first;
    int64_t count, room;
};

static struct error open_bracket(struct brackets *b, int64_t part)
{
    int64_t *wider = memory_grow(b->first, b->count, &b->room, sizeof *wider);
    if (!wider)
        return error_memory("the prompt");
    b->first = wider;
    b->first[b->count++] = part;
    return ok();
}

static void close_bracket(struct weighted_prompt *p, struct brackets *b, double weight)
{
    for (int64_t i = b->first[--b->count]; i < p->count; i++)
        p->items[i].weight *= weight;
}

static struct error close_weighed(struct weighted_prompt *p, struct brackets *b, const char *number, int digits)
{
    char *end, text[32];
    if (digits >= (int)sizeof text)
        return error_input("\"%.*s\": expected a shorter number", 60, number);
    memcpy(text, number, (size_t)digits);
    text[digits] = 0;
    double weight = strtod(text, &end);
    if (*end)
        return error_input("\"%s\": expected a number, such as 1.3, before the )", text);
    close_bracket(p, b, weight);
    return ok();
}

/* One step of AUTOMATIC1111's regular expression; *bytes: how many it takes. */
static struct error read_piece(struct weighted_prompt *p, struct brackets *round, struct brackets *square,
                               const char *text, int64_t *bytes)
{
    const char *number;
    int digits;
    *bytes = 1;
    if (*text == '\\') {
        *bytes = text[1] && strchr("()[]\\", text[1]) ? 2 : 1;
        return add_part(p, text + 1, *bytes - 1, 1);
    }
    if (*text == '(' || *text == '[')
        return open_bracket(*text == '(' ? round : square, p->count);
    if (round->count && (*bytes = read_weight(text, &number, &digits)) > 0)
        return close_weighed(p, round, number, digits);
    *bytes = 1;
    if (*text == ')' && round->count)
        close_bracket(p, round, more);
    else if (*text == ']' && square->count)
        close_bracket(p, square, less);
    else {
        *bytes = strchr(")]:", *text) ? 1 : (int64_t)strcspn(text, "\\()[]:");
        return add_text(p, text, *bytes);
    }
    return ok();
}

/* Neighbours of the same weight become one, the first; the others lose their text. */
static struct error merge_equal(struct weighted_prompt *p)
{
    int64_t kept = 0;
    for (int64_t i = 1; i < p->count; i++) {
        struct weighted_part *to = &p->items[kept], *from = &p->items[i];
        if (to->weight != from->weight) {
            struct weighted_part moved = *from;
            *from = (struct weighted_part){0};
            p->items[++kept] = moved;
            continue;
        }
        size_t size = strlen(to->text);
        char *joined = memory_alloc((int64_t)(size + strlen(from->text)) + 1, 1);
        if (!joined)
            return error_memory("the prompt");
        memcpy(joined, to->text, size);
        memcpy(joined + size, from->text, strlen(from->text));
        memory_free(to->text);
        memory_free(from->text);
        *from = (struct weighted_part){0};
        to->text = joined;
    }
    p->count = kept + 1;
    for (int64_t i = 0; i < p->count; i++)
        p->items[i].is_break = p->items[i].weight == break_weight && strcmp(p->items[i].text, "BREAK") == 0;
    return ok();
}

static struct error read_all(struct weighted_prompt *p, struct brackets *round, struct brackets *square,
                             const char *text)
{
    for (int64_t bytes; *text; text += bytes)
        TRY(read_piece(p, round, square, text, &bytes));
    while (round->count)
        close_bracket(p, round, more);
    while (square->count)
        close_bracket(p, square, less);
    if (p->count == 0)
        TRY(add_part(p, "", 0, 1));
    return merge_equal(p);
}

/* -------------------------------------------------------------------------------- what is refused */

/* An open bracket, and what stands in it outside of other brackets. */
struct opened {
    const char *at, *colon; /* colon: the last */
    int colons;
    bool bar;
};

/* "[from:to:when]" and "[a|b]"; `end` is the ]. */
static struct error check_square(const struct opened *o, const char *end)
{
    char *after;
    int shown = text_fitting(o->at, end + 1 - o->at > 100 ? 100 : (int)(end + 1 - o->at));
    if (o->bar)
        return error_input(
            "\"%.*s\": words that alternate from step to step are not supported; write \\[ for a bracket", shown,
            o->at);
    if (o->colons < 1 || o->colons > 2)
        return ok();
    const char *number = o->colon + 1 + skip_space(o->colon + 1);
    strtod(number, &after);
    if (after == number || after + skip_space(after) != end)
        return ok();
    return error_input("\"%.*s\": a prompt that changes at a step is not supported; write \\[ for a bracket", shown,
                       o->at);
}

/* stack [strlen(text)]. */
static struct error check_brackets(struct opened *stack, const char *text)
{
    int64_t open = 0;
    for (const char *c = text; *c; c++) {
        struct opened *o = open ? &stack[open - 1] : NULL;
        if (*c == '\\' && c[1])
            c++;
        else if (*c == '(' || *c == '[')
            stack[open++] = (struct opened){.at = c};
        else if (o && ((*c == ')' && *o->at == '(') || (*c == ']' && *o->at == '['))) {
            if (*c == ']')
                TRY(check_square(o, c));
            open--;
        } else if (o && *c == '|')
            o->bar = true;
        else if (o && *c == ':') {
            o->colon = c;
            o->colons++;
        }
    }
    return ok();
}

/* "<lora:name:1>" */
static struct error check_networks(const char *text)
{
    for (const char *at = text; (at = strchr(at, '<')); at++) {
        const char *end = at + 1;
        for (int32_t c; is_word(end);)
            end += character_read(end, &c);
        const char *close = *end == ':' && end > at + 1 ? strchr(end, '>') : NULL;
        if (close && close > end + 1)
            return error_input("\"%.*s\": networks beside the model are not supported; take it out of the prompt",
                               text_fitting(at, close + 1 - at > 100 ? 100 : (int)(close + 1 - at)), at);
    }
    return ok();
}

static struct error check(const char *text, bool negative)
{
    struct opened *stack = memory_alloc((int64_t)strlen(text), sizeof *stack);
    if (!stack)
        return error_memory("the prompt");
    struct error e = check_brackets(stack, text);
    memory_free(stack);
    TRY(e);
    if (negative)
        return ok();
    if (find_word(text, (int64_t)strlen(text), "AND"))
        return error_input("several prompts joined by AND are not supported; write \"and\" for the word");
    return check_networks(text);
}

struct error weighted_prompt_read(struct weighted_prompt *p, const char *text, bool negative)
{
    struct brackets round = {0}, square = {0};
    *p = (struct weighted_prompt){0};
    TRY(check(text, negative));
    struct error e = read_all(p, &round, &square, text);
    memory_free(round.first);
    memory_free(square.first);
    return e;
}

void weighted_prompt_free(struct weighted_prompt *p)
{
    for (int64_t i = 0; i < p->count; i++)
        memory_free(p->items[i].text);
    memory_free(p->items);
    *p = (struct weighted_prompt){0};
}

/* -------------------------------------------------------------------------------- what looks like a weight */

/* The ( that the ) or weight at `end` closes, or NULL. */
static const char *opening(const char *text, const char *end)
{
    int64_t depth = 0;
    for (const char *c = end; c > text;) {
        c--;
        if (c > text && c[-1] == '\\')
            c--;
        else if (*c == ')')
            depth++;
        else if (*c == '(' && depth-- == 0)
            return c;
    }
    return NULL;
}

int64_t weighted_prompt_find(const char *text, const char **part)
{
    const char *number, *from;
    int digits;
    int64_t open = 0;
    for (const char *c = text; *c; c++) {
        if (*c == '\\' && c[1]) {
            c++;
            continue;
        }
        int64_t bytes = open ? read_weight(c, &number, &digits) : 0;
        bool twice = open && *c == ')' && c[1] == ')';
        from = bytes || twice ? opening(text, c) : NULL;
        if (from && twice && (from == text || from[-1] != '('))
            from = NULL;
        *part = from && twice ? from - 1 : from;
        if (from)
            return c + (twice ? 2 : bytes) - *part;
        open += *c == '(' ? 1 : *c == ')' && open ? -1 : 0;
    }
    return 0;
}
