#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/memory.h"

bool text_ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

char *text_replace(const char *text, const char *what, const char *by)
{
    size_t length = strlen(what), size = strlen(by), room = strlen(text) + 1;
    for (const char *at = text; (at = strstr(at, what)); at += length)
        room += size;
    char *all = memory_alloc((int64_t)room, 1), *to = all;
    for (const char *at; all && (at = strstr(text, what)); text = at + length) {
        memcpy(to, text, (size_t)(at - text));
        memcpy(to + (at - text), by, size);
        to += (size_t)(at - text) + size;
    }
    if (all)
        strcpy(to, text);
    return all;
}

bool text_has_blank(const char *text)
{
    utf8proc_int32_t code;
    utf8proc_ssize_t length;
    for (; (length = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &code)) > 0 && code != 0; text += length) {
        utf8proc_category_t category = utf8proc_category(code);
        if (category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
            category == UTF8PROC_CATEGORY_ZP)
            return true;
    }
    return false;
}

int text_fitting(const char *text, int bytes)
{
    if (strlen(text) <= (size_t)bytes)
        return (int)strlen(text);
    while (bytes > 0 && ((unsigned char)text[bytes] & 0xc0) == 0x80)
        bytes--;
    return bytes;
}

void text_column(char out[TEXT_COLUMN_SIZE], const char *text, int columns)
{
    int used = 0;
    char *to = out, *end = out + TEXT_COLUMN_SIZE - 1;
    for (; *text && to < end && (used < columns || ((unsigned char)*text & 0xc0) == 0x80); text++) {
        used += ((unsigned char)*text & 0xc0) != 0x80;
        *to++ = *text;
    }
    for (; used < columns && to < end; used++)
        *to++ = ' ';
    *to = 0;
}

enum { FEW = 5, NAME = 50 }; /* names that are shown, and bytes of each */

void text_few_add(struct text_few *few, const char *name)
{
    int fitting = text_fitting(name, NAME);
    size_t used = strlen(few->text);
    if (few->count < FEW)
        snprintf(few->text + used, sizeof few->text - used, "%s%.*s%s", few->count ? ", " : "", fitting, name,
                 name[fitting] ? "..." : "");
    few->count++;
}

void text_few_end(struct text_few *few)
{
    size_t used = strlen(few->text);
    if (few->count > FEW)
        snprintf(few->text + used, sizeof few->text - used, " and %lld more", (long long)few->count - FEW);
}

/* The bytes of the first character, and its code point: -1 if it is a control character, or no valid UTF-8. */
static size_t read_character(const char *text, utf8proc_int32_t *code)
{
    utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, code);
    if (length <= 0 || utf8proc_category(*code) == UTF8PROC_CATEGORY_CC)
        *code = -1;
    return length > 0 ? (size_t)length : 1;
}

void text_show_safely(char *text)
{
    while (*text) {
        utf8proc_int32_t code;
        size_t bytes = read_character(text, &code);
        if (code < 0)
            memset(text, '?', bytes);
        text += bytes;
    }
}

void text_number(char out[TEXT_NUMBER], double value)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, TEXT_NUMBER, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            return;
    }
}

void text_as_json(char *out, size_t size, const char *text)
{
    char *to = out, *end = out + size - 2; // of what lies between the quotes
    *to++ = '"';
    while (*text) {
        utf8proc_int32_t code;
        char part[16];
        size_t bytes = read_character(text, &code);
        if (code < 0)
            snprintf(part, sizeof part, "%.*s", (int)bytes, "????");
        else if (code == '"' || code == '\\')
            snprintf(part, sizeof part, "\\%c", (char)code);
        else if (code == 0x2028 || code == 0x2029) // which some readers take for the end of a line
            snprintf(part, sizeof part, "\\u%04x", (unsigned)code);
        else
            snprintf(part, sizeof part, "%.*s", (int)bytes, text);
        if (strlen(part) > (size_t)(end - to))
            break;
        to = stpcpy(to, part);
        text += bytes;
    }
    strcpy(to, "\"");
}
