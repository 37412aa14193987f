#include "report/draw_command.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "report/html.h"

/* As Python's shlex.quote: between single quotes, unless no character means anything to a shell. */
static void put_quoted(FILE *out, const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
    if (*text && !text[strspn(text, plain)]) {
        fputs(text, out);
        return;
    }
    putc('\'', out);
    for (; *text; text++)
        fputs(*text == '\'' ? "'\"'\"'" : (char[]){*text, 0}, out);
    putc('\'', out);
}

static void put_option(FILE *out, const char *name, const char *value)
{
    fprintf(out, " --%s ", name);
    put_quoted(out, value);
}

static void put_line(FILE *out, const struct draw_command *c, const char *output)
{
    char guidance[TEXT_NUMBER];
    text_number(guidance, c->guidance);
    fputs("zoodip generate", out);
    put_option(out, "model", c->model);
    if (c->tokenizer)
        put_option(out, "tokenizer", c->tokenizer);
    if (c->prediction)
        put_option(out, "prediction", c->prediction);
    if (c->embedding)
        put_option(out, "embedding", c->embedding);
    put_option(out, "prompt", c->prompt);
    put_option(out, "scheduler", c->sampler);
    fprintf(out, " --steps %lld --guidance %s --seed %lld --size %lldx%lld --bits %d", (long long)c->steps, guidance,
            (long long)c->seed, (long long)c->width, (long long)c->height, c->bits);
    put_option(out, "device", c->device);
    put_option(out, "output", output);
}

struct error draw_command_put(FILE *out, const struct draw_command *command, const char *output)
{
    char *line = NULL;
    size_t size;
    FILE *stream = open_memstream(&line, &size);
    if (!stream)
        return error_memory("a command");
    put_line(stream, command, output);
    bool failed = ferror(stream);
    if (fclose(stream) != 0 || failed) {
        free(line);
        return error_memory("a command");
    }
    fputs("<details><summary>command</summary><pre>", out);
    html_text(out, line);
    fputs("</pre></details>", out);
    free(line);
    return ok();
}
