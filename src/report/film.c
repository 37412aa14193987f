#include "report/film.h"

#include <stdlib.h>

#include "base/memory.h"
#include "report/html.h"

/* A page of a few megabytes, and a strip that one looks through to its end. */
enum { MOST_FRAMES = 240, MOST_STEPS = 24, LEAST_STEPS = 4, FRAME_SIDE = 160 };

static struct error samples_folder(char path[PATH_SIZE], const char *folder)
{
    return path_join(path, folder, "samples");
}

struct error film_path(char path[PATH_SIZE], const char *folder, int64_t step, int64_t prompt)
{
    char samples[PATH_SIZE], name[64];
    TRY(samples_folder(samples, folder));
    snprintf(name, sizeof name, "step-%lld-%lld.png", (long long)step, (long long)prompt + 1);
    return path_join(path, samples, name);
}

/* The step of a picture of the first prompt, or 0. */
static int64_t step_of(const char *name)
{
    long long step;
    int end = 0;
    return sscanf(name, "step-%15lld-1.png%n", &step, &end) == 1 && end > 0 && !name[end] && step > 0 ? step : 0;
}

static int compare_steps(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The steps with pictures, in order; free with memory_free. */
static struct error list_steps(const char *folder, int64_t last_step, int64_t **steps, int64_t *count)
{
    char path[PATH_SIZE];
    char **names;
    int64_t name_count;
    *steps = NULL;
    *count = 0;
    TRY(samples_folder(path, folder));
    if (!folder_exists(path))
        return ok();
    TRY(folder_list(path, &names, &name_count));
    *steps = memory_alloc(name_count, sizeof **steps);
    for (int64_t i = 0; i < name_count && *steps; i++) {
        int64_t step = step_of(names[i]);
        if (step > 0 && step <= last_step)
            (*steps)[(*count)++] = step;
    }
    folder_list_free(names, name_count);
    if (!*steps)
        return error_memory("the samples");
    qsort(*steps, (size_t)*count, sizeof **steps, compare_steps);
    return ok();
}

/* The command of a step's picture, if the word of that step was kept. */
static struct error put_command(FILE *out, const char *folder, const struct draw_command *learned, int64_t step,
                                int64_t prompt)
{
    char name[64], word[PATH_SIZE], picture[PATH_SIZE];
    struct draw_command command = *learned;
    snprintf(name, sizeof name, "learned_embeds-steps-%lld.safetensors", (long long)step);
    TRY(path_join(word, folder, name));
    TRY(film_path(picture, folder, step, prompt));
    if (!learned->embedding)
        return draw_command_put(out, &command, path_name(picture));
    command.embedding = word;
    return file_exists(word) ? draw_command_put(out, &command, path_name(picture)) : ok();
}

static struct error begin_frame(FILE *out, const struct picture *picture, const char *label)
{
    fputs("<figure>", out);
    TRY(html_picture(out, picture, label, FRAME_SIDE));
    fputs("<figcaption>", out);
    html_text(out, label);
    fputs("</figcaption>", out);
    return ok();
}

static void end_frame(FILE *out)
{
    fputs("</figure>\n", out);
}

/* Of a picture that the page has with its command already. */
static struct error put_frame(FILE *out, const struct picture *picture, const char *label)
{
    TRY(begin_frame(out, picture, label));
    end_frame(out);
    return ok();
}

/* A picture that cannot be read must not keep the others off the page. */
static struct error put_step(FILE *out, const char *folder, const struct report_pictures *p, int64_t step,
                             int64_t prompt)
{
    char path[PATH_SIZE], label[64];
    struct picture picture;
    TRY(film_path(path, folder, step, prompt));
    snprintf(label, sizeof label, "step %lld", (long long)step);
    struct error e = picture_read(&picture, path, NULL);
    if (e.code != ERROR_NONE) {
        fputs("<figure>", out);
        html_trouble(out, e);
        end_frame(out);
        return ok();
    }
    e = begin_frame(out, &picture, label);
    picture_free(&picture);
    if (e.code == ERROR_NONE && p->learned_commands)
        e = put_command(out, folder, &p->learned_commands[prompt], step, prompt);
    end_frame(out);
    return e;
}

static struct error put_strip(FILE *out, const char *folder, const struct report_pictures *p, int64_t prompt,
                              const int64_t *steps, int64_t count)
{
    fputs("<p class=\"name\">", out);
    html_text(out, p->prompts[prompt]);
    fputs("</p>\n<div class=\"film\">\n", out);
    TRY(put_frame(out, &p->start[prompt], "start"));
    for (int64_t i = 0; i < count; i++)
        TRY(put_step(out, folder, p, steps[i], prompt));
    TRY(put_frame(out, &p->learned[prompt], "learned"));
    fputs("</div>\n", out);
    return ok();
}

/* Leaves at most `most` steps, evenly spread, the first and the last among them. */
static int64_t thin(int64_t *steps, int64_t count, int64_t most)
{
    if (count <= most)
        return count;
    for (int64_t i = 0; i < most; i++)
        steps[i] = steps[i * (count - 1) / (most - 1)];
    return most;
}

static struct error put_strips(FILE *out, const char *folder, const struct report_pictures *p, int64_t *steps,
                               int64_t count)
{
    int64_t most = MOST_FRAMES / p->prompt_count;
    most = most > MOST_STEPS ? MOST_STEPS : most < LEAST_STEPS ? LEAST_STEPS : most;
    int64_t shown = thin(steps, count, most);
    fputs("<h2>While it was learned</h2>\n<section>\n", out);
    if (shown < count)
        fprintf(out, "<p>%lld of %lld steps with pictures; the others are in samples/.</p>\n", (long long)shown,
                (long long)count);
    for (int64_t i = 0; i < p->prompt_count; i++)
        TRY(put_strip(out, folder, p, i, steps, shown));
    fputs("</section>\n", out);
    return ok();
}

struct error film_put(FILE *out, const char *folder, const struct report_pictures *pictures, int64_t last_step)
{
    int64_t *steps, count;
    struct error e = list_steps(folder, last_step, &steps, &count);
    if (e.code != ERROR_NONE) {
        html_trouble(out, e);
        return ok();
    }
    if (count > 0 && pictures->prompt_count > 0)
        e = put_strips(out, folder, pictures, steps, count);
    memory_free(steps);
    return e;
}
