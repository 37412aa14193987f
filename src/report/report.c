#include "report/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
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

/* A picture in its row; the page shows the label where a line of columns begins. */
static struct error put_cell(FILE *out, const struct report_pictures *p, const char *label,
                             const struct picture *picture)
{
    fputs("<p class=\"row\">", out);
    html_text(out, label);
    fputs("</p>", out);
    return html_picture(out, picture, label, most_side(p));
}

/* A column a prompt: the learned word's picture is always under that of the start word. */
static struct error put_prompts(FILE *out, const struct report_pictures *p)
{
    begin_columns(out, p, "");
    for (int64_t i = 0; i < p->prompt_count; i++) {
        fputs("<figure>", out);
        TRY(put_cell(out, p, p->start_label, &p->start[i]));
        TRY(put_cell(out, p, p->learned_label, &p->learned[i]));
        fputs("<figcaption>", out);
        html_text(out, p->prompts[i]);
        fputs("</figcaption></figure>\n", out);
    }
    fputs("</div>\n", out);
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

/* -------------------------------------------------------------------------------- a run's page */

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
        html_curve(out, &chart, "h2");
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

/* -------------------------------------------------------------------------------- many subjects */

enum { SHEET_WIDTH = 960, READABLE_WIDTH = 640 };

/* A run's grid.png, shrunk if it is wider than the page. On a phone one moves it, so that its labels can be read. */
static struct error put_sheet(FILE *out, const char *folder)
{
    char path[PATH_SIZE];
    struct picture sheet;
    TRY(path_join(path, folder, "grid.png"));
    if (!file_exists(path))
        return ok();
    TRY(picture_read(&sheet, path));
    int64_t most = sheet.height > sheet.width ? SHEET_WIDTH * sheet.height / sheet.width : SHEET_WIDTH;
    fprintf(out, "<h3>Pictures</h3>\n<section class=\"sheet\">\n<div style=\"min-width: %lldpx\">",
            (long long)(sheet.width < READABLE_WIDTH ? sheet.width : READABLE_WIDTH));
    struct error e = html_picture(out, &sheet, "photos, and both words on every prompt", most);
    fputs("</div>\n</section>\n", out);
    picture_free(&sheet);
    return e;
}

static struct error put_subject_curve(FILE *out, const char *folder)
{
    char path[PATH_SIZE];
    struct chart chart;
    TRY(path_join(path, folder, "metrics.jsonl"));
    if (!file_exists(path))
        return ok();
    TRY(chart_read(&chart, folder));
    if (chart.lines.count > 0)
        html_curve(out, &chart, "h3");
    chart_free(&chart);
    return ok();
}

static void put_subject(FILE *out, const struct report_subject *s)
{
    fputs("<h2>", out);
    html_text(out, s->name);
    fputs("</h2>\n", out);
    html_facts(out, s->facts, s->fact_count);
    if (s->link) {
        fputs("<p><a href=\"", out);
        html_address(out, s->link);
        fputs("\">report</a></p>\n", out);
    }
    html_trouble(out, put_sheet(out, s->folder));
    html_trouble(out, put_subject_curve(out, s->folder));
}

struct error report_subjects(const char *path, const char *title, const struct report_subject *subjects,
                             int64_t subject_count)
{
    struct whole_file file;
    struct progress progress;
    char what[64];
    TRY(whole_file_begin(&file, path));
    snprintf(what, sizeof what, "writing %.50s", path_name(path));
    progress_phase(&progress, what, subject_count, "");
    html_begin(file.stream, title);
    for (int64_t i = 0; i < subject_count; i++) {
        put_subject(file.stream, &subjects[i]);
        progress_step(&progress, i + 1, "");
    }
    html_end(file.stream);
    struct error e = whole_file_end(&file, true);
    progress_end(&progress);
    return e;
}
