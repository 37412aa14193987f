#include "base/text.h"

#include <string.h>
#include <utf8proc.h>

bool text_ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

void text_show_safely(char *text)
{
    while (*text) {
        utf8proc_int32_t code;
        utf8proc_ssize_t taken = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &code);
        size_t bytes = taken > 0 ? (size_t)taken : 1;
        if (taken <= 0 || utf8proc_category(code) == UTF8PROC_CATEGORY_CC)
            memset(text, '?', bytes);
        text += bytes;
    }
}
