/* captions object|style  or  captions FILE PICTURE...  or  captions --beside WORD FILE...
 *
 * The captions of diffusers' templates, those that FILE has for pictures, or those of a file each, filled with "sks": JSON
 * strings, one a line; then, as a line "more: ", the files with further lines.
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "helper.h"
#include "text/captions.h"

static struct error show(const char *template)
{
    char *text;
    struct error e = captions_fill(template, "sks", &text);
    if (e.code != ERROR_NONE)
        return e;
    cJSON *json = cJSON_CreateString(text);
    char *line = cJSON_PrintUnformatted(json);
    printf("%s\n", line ? line : "");
    cJSON_free(line);
    cJSON_Delete(json);
    memory_free(text);
    return ok();
}

static struct error work(int argc, char **argv)
{
    bool beside = argc >= 3 && strcmp(argv[1], "--beside") == 0;
    if (argc < 2)
        return error_input("usage: captions object|style, captions FILE PICTURE..., or captions --beside WORD FILE...");
    struct captions c;
    struct text_few more = {0};
    if (argc == 2)
        TRY(captions_templates(&c, strcmp(argv[1], "style") == 0));
    else if (beside)
        TRY(captions_beside(&c, argv + 3, argc - 3, argv[2], &more));
    else
        TRY(captions_read(&c, argv[1], (const char *const *)argv + 2, argc - 2));
    struct error e = ok();
    for (int64_t i = 0; i < c.count && e.code == ERROR_NONE; i++)
        e = show(c.templates[i]);
    if (more.count)
        printf("more: %s\n", more.text);
    captions_free(&c);
    return e;
}

int main(int argc, char **argv)
{
    return helper_end("captions", work(argc, argv));
}
