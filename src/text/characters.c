#include "text/characters.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/memory.h"

struct range {
    int32_t first, last;
};

static bool in_ranges(const struct range *ranges, size_t count, int32_t c)
{
    for (size_t i = 0; i < count && c >= ranges[i].first; i++)
        if (c <= ranges[i].last)
            return true;
    return false;
}

/* Letters and numbers of Unicode 16 that utf8proc does not know yet. */
static const struct range new_letters[] = {
    {0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3}, {0x10d4a, 0x10d65},
    {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x11380, 0x11389}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e},
    {0x11390, 0x113b5}, {0x113b7, 0x113b7}, {0x113d1, 0x113d1}, {0x113d3, 0x113d3}, {0x11bc0, 0x11be0},
    {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff}, {0x1e5d0, 0x1e5ed},
    {0x1e5f0, 0x1e5f0}, {0x2ebf0, 0x2ee5d},
};
static const struct range new_numbers[] = {
    {0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9}, {0x16130, 0x16139},
    {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9}, {0x1e5f1, 0x1e5fa},
};

/* Lower case = character + step, up to Unicode 17. */
static const struct {
    int32_t first, last, step;
} new_capitals[] = {
    {0x1c89, 0x1c89, 1},    {0xa7cb, 0xa7cb, 0x264 - 0xa7cb},
    {0xa7cc, 0xa7cc, 1},    {0xa7ce, 0xa7ce, 1},
    {0xa7d2, 0xa7d2, 1},    {0xa7d4, 0xa7d4, 1},
    {0xa7da, 0xa7da, 1},    {0xa7dc, 0xa7dc, 0x19b - 0xa7dc},
    {0x10d50, 0x10d65, 32}, {0x16ea0, 0x16eb8, 27},
};

/* Combining marks and pairs newer than Unicode 9. They are unknown to transformers' NFC, so they do not move, do not
 * combine, and let nothing move past them. */
static const struct range inert[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
    {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
    {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f},
    {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
};

static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

enum character_kind character_kind(int32_t c)
{
    if (is_space(c))
        return CHARACTER_SPACE;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return CHARACTER_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return CHARACTER_NUMBER;
    case UTF8PROC_CATEGORY_CN:
        return in_ranges(new_letters, sizeof new_letters / sizeof *new_letters, c)   ? CHARACTER_LETTER
               : in_ranges(new_numbers, sizeof new_numbers / sizeof *new_numbers, c) ? CHARACTER_NUMBER
                                                                                     : CHARACTER_OTHER;
    default:
        return CHARACTER_OTHER;
    }
}

int64_t character_read(const char *text, int32_t *c)
{
    return (int64_t)utf8proc_iterate((const utf8proc_uint8_t *)text, -1, c);
}

int64_t character_write(char *to, int32_t c)
{
    return (int64_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)to);
}

/* In lower case, which has at most one byte more than the character; returns how many. */
static int64_t write_lower(char *to, int32_t c)
{
    if (c == 0x130) { // the one character whose lower case is two characters: i and a dot above
        int64_t size = character_write(to, 'i');
        return size + character_write(to + size, 0x307);
    }
    int32_t lower = utf8proc_tolower(c);
    for (size_t i = 0; i < sizeof new_capitals / sizeof *new_capitals && lower == c; i++)
        if (c >= new_capitals[i].first && c <= new_capitals[i].last)
            lower = c + new_capitals[i].step;
    return character_write(to, lower);
}

/* Bytes before the first inert character, or all; -1 if the text is not UTF-8. */
static int64_t stretch_length(const char *text)
{
    const char *at = text;
    for (int32_t c; *at;) {
        int64_t size = character_read(at, &c);
        if (size <= 0)
            return -1;
        if (in_ranges(inert, sizeof inert / sizeof *inert, c))
            break;
        at += size;
    }
    return at - text;
}

/* Writes the NFC of `length` bytes to `to`; returns its size, or -1. */
static int64_t compose_stretch(char *to, const char *text, int64_t length)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t size = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &composed,
                                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (size > 0)
        memcpy(to, composed, (size_t)size);
    free(composed);
    return (int64_t)size;
}

struct error characters_compose(const char *text, char **composed)
{
    *composed = NULL;
    char *all = memory_alloc(3 * (int64_t)strlen(text) + 1, 1), *to = all; // NFC at most triples the bytes of UTF-8
    if (!all)
        return error_memory("a text");
    for (const char *at = text; *at;) {
        int64_t length = stretch_length(at), size = length < 0 ? -1 : compose_stretch(to, at, length);
        if (size < 0) {
            memory_free(all);
            return length < 0 ? error_input("\"%.100s\": is not valid UTF-8", text) : error_memory("a text");
        }
        to += size;
        at += length;
        if (*at) { // an inert character, as it is
            int32_t c;
            at += character_read(at, &c);
            to += character_write(to, c);
        }
    }
    *composed = all;
    return ok();
}

struct error characters_normalize(const char *text, char **normal)
{
    char *composed;
    TRY(characters_compose(text, &composed));
    char *to = memory_alloc(2 * (int64_t)strlen(composed) + 1, 1); // lower case adds at most one byte to a character
    *normal = to;
    bool blank = false;
    for (const char *at = composed; to && *at;) {
        int32_t c;
        at += character_read(at, &c);
        bool space = character_kind(c) == CHARACTER_SPACE;
        if (!space)
            to += write_lower(to, c);
        else if (!blank)
            *to++ = ' ';
        blank = space;
    }
    memory_free(composed);
    return *normal ? ok() : error_memory("a text");
}
