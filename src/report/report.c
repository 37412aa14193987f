#include "report/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"
#include "report/chart.h"
#include "report/film.h"
#include "report/html.h"

/* -------------------------------------------------------------------------------- pictures */

enum { COLUMNS = 5, FEW = 32, LARGE = 512, SMALL = 256 }; /* a side in pixels: of few pictures, and of many */

static int64_t most_side(const struct report_pictures *p)
{
    return p->photo_count + 2 * p->prompt_count <= FEW ? LARGE : SMALL;
}

/* kind: of the columns, or "". */
static void begin_columns(FILE *out, const struct report_pictures *p, const char *kind)
{
    int64_t most = p->photo_count > p->prompt_count ? p->photo_count : p->prompt_count;
    fprintf(out, "<div class=\"columns%s n%d\">\n", kind, (int)(most < 2 ? 2 : most < COLUMNS ? most : COLUMNS));
}

static struct error put_photos(FILE *out, const struct report_pictures *p)
{
    fputs("<p class=\"row whole\">photos</p>\n", out);
    begin_columns(out, p, " photos");
    for (int64_t i = 0; i < p->photo_count; i++) {
        fputs("<figure>", out);
        TRY(html_picture(out, &p->photos[i], p->names[i], most_side(p)));
        fputs("</figure>\n", out);
    }
    fputs("</div>\n", out);
    return ok();
}

/* A word's pictures of all prompts. */
struct row {
    const char *label, *name; /* name: of the files that their commands write */
    const struct picture *pictures;
    const struct draw_command *commands; /* or NULL */
};

/* A picture in its row; the page shows the label where a line of columns begins. */
static struct error put_cell(FILE *out, const struct report_pictures *p, const struct row *row, int64_t prompt)
{
    char output[64];
    fputs("<p class=\"row\">", out);
    html_text(out, row->label);
    fputs("</p>", out);
    TRY(html_picture(out, &row->pictures[prompt], row->label, most_side(p)));
    snprintf(output, sizeof output, "%s-%lld.png", row->name, (long long)prompt + 1);
    return row->commands ? draw_command_put(out, &row->commands[prompt], output) : ok();
}

/* A column a prompt: the learned word's picture is always under that of the start word. */
static struct error put_prompts(FILE *out, const struct report_pictures *p)
{
    const struct row start = {p->start_label, "start", p->start, p->start_commands};
    const struct row learned = {p->learned_label, "learned", p->learned, p->learned_commands};
    begin_columns(out, p, "");
    for (int64_t i = 0; i < p->prompt_count; i++) {
        fputs("<figure>", out);
        TRY(put_cell(out, p, &start, i));
        TRY(put_cell(out, p, &learned, i));
        fputs("<figcaption>", out);
        html_text(out, p->prompts[i]);
        fputs("</figcaption></figure>\n", out);
    }
    fputs("</div>\n", out);
    if (p->learned_commands)
        fputs("<p class=\"note\">Each command draws its picture again, in the folder where the run was started.</p>\n",
              out);
    return ok();
}

static struct error put_pictures(FILE *out, const struct report_pictures *p)
{
    if (p->photo_count + p->prompt_count == 0)
        return ok();
    fputs("<section>\n", out);
    if (p->photo_count > 0)
        TRY(put_photos(out, p));
    if (p->prompt_count > 0)
        TRY(put_prompts(out, p));
    fputs("</section>\n", out);
    return ok();
}

/* -------------------------------------------------------------------------------- the page */

static void put_config(FILE *out, const char *config)
{
    fputs("<h2>Config</h2>\n<section>\n<pre>", out);
    html_text(out, config);
    fputs("</pre>\n</section>\n", out);
}

static struct error put_page(FILE *out, const char *folder, const struct report *r)
{
    struct chart chart;
    TRY(chart_read(&chart, folder));
    html_begin(out, r->title);
    if (r->summary) {
        fputs("<p>", out);
        html_text(out, r->summary);
        fputs("</p>\n", out);
    }
    struct error e = put_pictures(out, &r->pictures);
    if (chart.lines.count > 0)
        html_curve(out, &chart);
    chart_free(&chart);
    TRY(e);
    TRY(film_put(out, folder, &r->pictures, r->last_step));
    fputs("<h2>Run</h2>\n", out);
    html_facts(out, r->facts, r->fact_count);
    put_config(out, r->config);
    html_end(out);
    return ok();
}

/* In memory first: errno of a write that failed would not survive the reading of pictures in between. */
struct error report_write(const char *folder, const struct report *report)
{
    char path[PATH_SIZE], *page = NULL;
    size_t size;
    TRY(path_join(path, folder, "report.html"));
    FILE *out = open_memstream(&page, &size);
    if (!out)
        return error_memory("the report");
    struct error e = put_page(out, folder, report);
    bool failed = ferror(out);
    if ((fclose(out) != 0 || failed) && e.code == ERROR_NONE)
        e = error_memory("the report");
    if (e.code == ERROR_NONE)
        e = file_write_whole(path, page, (int64_t)size);
    free(page);
    return e;
}
