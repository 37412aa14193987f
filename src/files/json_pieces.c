#include "files/json_pieces.h"

#include <string.h>

static const char *skip_blank(const char *at, const char *end)
{
    while (at < end && memchr(" \t\r\n", *at, 4))
        at++;
    return at;
}

/* From its quote to behind the closing one; NULL if there is none. */
static const char *skip_string(const char *at, const char *end)
{
    for (at++; at < end; at++) {
        if (*at == '"')
            return at + 1;
        at += *at == '\\';
    }
    return NULL;
}

/* Behind the bracket that closes the one at `at`, of whichever kind; NULL if there is none. */
static const char *skip_brackets(const char *at, const char *end)
{
    int64_t depth = 0;
    while (at && at < end) {
        if (*at == '"') {
            at = skip_string(at, end);
            continue;
        }
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        at++;
        if (depth == 0)
            return at;
    }
    return NULL;
}

static const char *skip_value(const char *at, const char *end)
{
    if (at == end)
        return NULL;
    if (*at == '"')
        return skip_string(at, end);
    if (*at == '{' || *at == '[')
        return skip_brackets(at, end);
    const char *from = at;
    while (at < end && !memchr(" \t\r\n,:]}", *at, 8))
        at++;
    return at > from ? at : NULL;
}

bool json_pieces_open(struct json_pieces *p, struct json_piece text)
{
    const char *end = text.text + text.size, *at = skip_blank(text.text, end);
    *p = (struct json_pieces){.end = end, .first = true};
    if (at == end || (*at != '{' && *at != '['))
        return false;
    p->object = *at == '{';
    p->at = at + 1;
    return true;
}

/* At a key: reads it and moves on to the value. */
static bool read_key(struct json_pieces *p, struct json_piece *key)
{
    if (p->at == p->end || *p->at != '"')
        return false;
    const char *behind = skip_string(p->at, p->end);
    if (!behind)
        return false;
    *key = (struct json_piece){p->at + 1, behind - p->at - 2};
    p->at = skip_blank(behind, p->end);
    if (p->at == p->end || *p->at != ':')
        return false;
    p->at = skip_blank(p->at + 1, p->end);
    return true;
}

/* At the next piece; false if there is none. */
static bool find_next(struct json_pieces *p)
{
    p->at = skip_blank(p->at, p->end);
    if (p->at == p->end)
        return false;
    p->whole = *p->at == (p->object ? '}' : ']');
    if (p->whole || (!p->first && *p->at != ','))
        return false;
    if (!p->first)
        p->at = skip_blank(p->at + 1, p->end);
    p->first = false;
    return true;
}

bool json_pieces_next(struct json_pieces *p, struct json_piece *key, struct json_piece *value)
{
    *key = (struct json_piece){"", 0};
    if (!p->at || p->whole || !find_next(p) || (p->object && !read_key(p, key)))
        return false;
    const char *behind = skip_value(p->at, p->end);
    if (!behind)
        return false;
    *value = (struct json_piece){p->at, behind - p->at};
    p->at = behind;
    return true;
}

bool json_pieces_whole(const struct json_pieces *p)
{
    return p->whole;
}

bool json_piece_is(struct json_piece piece, const char *text)
{
    return (int64_t)strlen(text) == piece.size && memcmp(piece.text, text, (size_t)piece.size) == 0;
}
