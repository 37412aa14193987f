#include "report/report.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "files/file.h"
#include "report/chart.h"

/* The page's style; the page loads nothing from the network, and its policy forbids it to. */
static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
    "'unsafe-inline'\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<style>\n"
    ":root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1c2430; --soft: #5f6b7a; --rule: "
    "#e1e5eb;\n"
    "  --dots: #7f9cc4; --line: #1d4ed8; --mark: #d9541c; }\n"
    "@media (prefers-color-scheme: dark) { :root { --paper: #12161c; --card: #1b212a; --ink: #e6eaf0; --soft: "
    "#97a3b3;\n"
    "  --rule: #303947; --dots: #56719a; --line: #7aa5ff; --mark: #ff9155; } }\n"
    "* { box-sizing: border-box; }\n"
    "body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }\n"
    "main { max-width: 1000px; margin: 0 auto; padding: 32px 20px 64px; }\n"
    "h1 { font-size: 28px; margin: 0 0 20px; overflow-wrap: anywhere; }\n"
    "h2 { font-size: 18px; margin: 36px 0 12px; } h3 { font-size: 15px; margin: 20px 0 8px; }\n"
    ".sheet img { max-width: 100%; display: block; }\n"
    "section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 20px; }\n"
    "table { border-collapse: collapse; width: 100%; }\n"
    "th, td { text-align: left; padding: 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }\n"
    "tr:last-child th, tr:last-child td { border-bottom: 0; }\n"
    "th { font-weight: normal; color: var(--soft); width: 38%; padding-right: 16px; }\n"
    "svg { display: block; width: 100%; height: auto; }\n"
    "svg text { fill: var(--soft); font-size: 13px; }\n"
    ".rule { stroke: var(--rule); } .axis { stroke: var(--soft); }\n"
    ".dots { stroke: var(--dots); stroke-width: 3; stroke-linecap: round; fill: none; }\n"
    ".line { stroke: var(--line); stroke-width: 2; stroke-linejoin: round; fill: none; }\n"
    ".steps { stroke: var(--mark); stroke-width: 1.2; fill: none; opacity: .6; } .mark { fill: var(--mark); }\n"
    ".pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 16px; }\n"
    "figure { margin: 0; } figure img { width: 100%; border-radius: 6px; display: block; }\n"
    "figcaption { color: var(--soft); font-size: 13px; line-height: 1.35; margin-top: 6px; overflow-wrap: anywhere; }\n"
    "pre { margin: 0; overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; tab-size: 4; }\n"
    "</style>\n";

static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '&' || c == '<' || c == '>' || c == '"' || c == '\'')
            fprintf(out, "&#%d;", c);
        else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            fputs("&#65533;", out); /* control characters do not belong in a page */
        else
            putc(c, out);
    }
}

static void put_base64(FILE *out, const uint8_t *data, int64_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int64_t i = 0; i < size; i += 3) {
        int64_t left = size - i;
        uint32_t bits =
            (uint32_t)data[i] << 16 | (left > 1 ? (uint32_t)data[i + 1] << 8 : 0) | (left > 2 ? data[i + 2] : 0);
        putc(digits[bits >> 18], out);
        putc(digits[bits >> 12 & 63], out);
        putc(left > 1 ? digits[bits >> 6 & 63] : '=', out);
        putc(left > 2 ? digits[bits & 63] : '=', out);
    }
}

/* -------------------------------------------------------------------------------- the curve */

enum { WIDTH = 900, HEIGHT = 400, LEFT = 64, RIGHT = 16, TOP = 40, BOTTOM = 48 };

static double place_x(const struct chart *chart, int64_t i)
{
    return LEFT + axis_part(&chart->x, (double)chart->lines.steps[i]) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const struct chart *chart, double value)
{
    return HEIGHT - BOTTOM - axis_part(&chart->y, value) * (HEIGHT - TOP - BOTTOM);
}

static void put_axes(FILE *out, const struct chart *chart)
{
    for (int i = 0; i < chart->y.tick_count; i++) {
        double y = place_y(chart, chart->y.ticks[i]);
        fprintf(out,
                "<path class=\"rule\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.*f</text>\n",
                LEFT, y, WIDTH - RIGHT, LEFT - 8, y + 4, chart->y.decimals, chart->y.ticks[i]);
    }
    for (int i = 0; i < chart->x.tick_count; i++) {
        double x = LEFT + axis_part(&chart->x, chart->x.ticks[i]) * (WIDTH - LEFT - RIGHT);
        fprintf(out,
                "<path class=\"axis\" d=\"M%.1f %dv5\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n",
                x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 20, chart->x.ticks[i]);
    }
    fprintf(out, "<path class=\"axis\" d=\"M%d %dH%d\"/><text x=\"%d\" y=\"%d\" text-anchor=\"end\">step</text>\n",
            LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, WIDTH - RIGHT, HEIGHT - 8);
}

static void put_legend(FILE *out)
{
    fprintf(out,
            "<path class=\"dots\" d=\"M%d 16h0\"/><text x=\"%d\" y=\"20\">loss</text>\n"
            "<path class=\"line\" d=\"M%d 16h26\"/><text x=\"%d\" y=\"20\">running mean</text>\n"
            "<circle class=\"mark\" cx=\"%d\" cy=\"16\" r=\"4\"/><text x=\"%d\" y=\"20\">validation</text>\n",
            LEFT + 6, LEFT + 16, LEFT + 80, LEFT + 114, LEFT + 230, LEFT + 242);
}

/* One path through every stride-th point; dots: a zero-length stroke at each. */
static void put_path(FILE *out, const struct chart *chart, const double *values, int64_t stride, const char *kind,
                     bool dot)
{
    bool down = false;
    fprintf(out, "<path class=\"%s\" d=\"", kind);
    for (int64_t i = 0; i < chart->lines.count; i++) {
        bool last = i == chart->lines.count - 1;
        if ((i % stride && !last) || !chart_shows(chart, values[i]))
            continue;
        fprintf(out, "%c%.1f %.1f%s", down && !dot ? 'L' : 'M', place_x(chart, i), place_y(chart, values[i]),
                dot ? "h0" : "");
        down = true;
    }
    fputs("\"/>\n", out);
}

static void put_curve(FILE *out, const struct chart *chart, const char *heading)
{
    fprintf(out, "<%s>Loss</%s>\n<section>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"loss over steps\">\n",
            heading, heading, WIDTH, HEIGHT);
    put_legend(out);
    put_axes(out, chart);
    fprintf(out, "<g opacity=\"%.2f\">", fmax(0.35, fmin(0.7, 700.0 / (double)chart->lines.count)));
    put_path(out, chart, chart->lines.losses, chart->lines.count / 2000 + 1, "dots", true);
    fputs("</g>\n", out);
    put_path(out, chart, chart->mean, chart->lines.count / 600 + 1, "line", false);
    put_path(out, chart, chart->lines.validations, 1, "steps", false);
    for (int64_t i = 0; i < chart->lines.count; i++)
        if (chart_shows(chart, chart->lines.validations[i]))
            fprintf(out,
                    "<circle class=\"mark\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>step %lld: %.5f</title></circle>\n",
                    place_x(chart, i), place_y(chart, chart->lines.validations[i]), (long long)chart->lines.steps[i],
                    chart->lines.validations[i]);
    fputs("</svg>\n</section>\n", out);
}

/* -------------------------------------------------------------------------------- the page */

static void put_facts(FILE *out, const char *const *facts, int64_t count)
{
    if (count == 0)
        return;
    fputs("<section>\n<table>\n", out);
    for (int64_t i = 0; i < count; i++) {
        fputs("<tr><th>", out);
        put_escaped(out, facts[2 * i]);
        fputs("</th><td>", out);
        put_escaped(out, facts[2 * i + 1]);
        fputs("</td></tr>\n", out);
    }
    fputs("</table>\n</section>\n", out);
}

static struct error put_picture(FILE *out, const struct picture *picture)
{
    uint8_t *png;
    int64_t size;
    TRY(picture_encode(picture, &png, &size));
    fputs("<img alt=\"\" src=\"data:image/png;base64,", out);
    put_base64(out, png, size);
    fputs("\">", out);
    memory_free(png);
    return ok();
}

static struct error put_pictures(FILE *out, const struct report_picture *pictures, int64_t count)
{
    if (count == 0)
        return ok();
    fputs("<h2>Pictures</h2>\n<section class=\"pictures\">\n", out);
    for (int64_t i = 0; i < count; i++) {
        fputs("<figure>", out);
        TRY(put_picture(out, pictures[i].picture));
        fputs("<figcaption>", out);
        put_escaped(out, pictures[i].caption);
        fputs("</figcaption></figure>\n", out);
    }
    fputs("</section>\n", out);
    return ok();
}

static void put_head(FILE *out, const char *title)
{
    fputs(page_head, out);
    fputs("<title>", out);
    put_escaped(out, title);
    fputs("</title>\n</head>\n<body>\n<main>\n<h1>", out);
    put_escaped(out, title);
    fputs("</h1>\n", out);
}

struct error report_write(const char *folder, const char *title, const char *config, const char *const *facts,
                          int64_t fact_count, const struct report_picture *pictures, int64_t picture_count)
{
    char path[PATH_SIZE];
    struct whole_file file;
    struct chart chart;
    TRY(path_join(path, folder, "report.html"));
    TRY(chart_read(&chart, folder));
    struct error e = whole_file_begin(&file, path);
    if (e.code != ERROR_NONE) {
        chart_free(&chart);
        return e;
    }
    put_head(file.stream, title);
    put_facts(file.stream, facts, fact_count);
    if (chart.lines.count > 0)
        put_curve(file.stream, &chart, "h2");
    chart_free(&chart);
    e = put_pictures(file.stream, pictures, picture_count);
    fputs("<h2>Config</h2>\n<section>\n<pre>", file.stream);
    put_escaped(file.stream, config);
    fputs("</pre>\n</section>\n</main>\n</body>\n</html>\n", file.stream);
    struct error ended = whole_file_end(&file, e.code == ERROR_NONE);
    return e.code == ERROR_NONE ? ended : e;
}

/* -------------------------------------------------------------------------------- many subjects */

enum { SHEET_WIDTH = 960 };

/* A path as a link: characters with a meaning in a page or an address are percent-encoded. */
static void put_address(FILE *out, const char *path)
{
    for (; *path; path++) {
        unsigned char c = (unsigned char)*path;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_./", c);
        fprintf(out, plain ? "%c" : "%%%02X", c);
    }
}

/* A run's grid.png, shrunk if it is wider than the page. */
static struct error put_sheet(FILE *out, const char *folder)
{
    char path[PATH_SIZE];
    struct picture whole, small;
    TRY(path_join(path, folder, "grid.png"));
    if (!file_exists(path))
        return ok();
    TRY(picture_read(&whole, path));
    fputs("<h3>Photos, the initializer's word, the learned word</h3>\n<section class=\"sheet\">\n", out);
    struct error e = ok();
    if (whole.width <= SHEET_WIDTH) {
        e = put_picture(out, &whole);
    } else {
        e = picture_resize(&small, &whole, SHEET_WIDTH, (whole.height * SHEET_WIDTH + whole.width - 1) / whole.width);
        if (e.code == ERROR_NONE) {
            e = put_picture(out, &small);
            picture_free(&small);
        }
    }
    fputs("</section>\n", out);
    picture_free(&whole);
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
        put_curve(out, &chart, "h3");
    chart_free(&chart);
    return ok();
}

/* A file that another run is writing, or that is damaged, must not keep the other subjects off the page. */
static void put_trouble(FILE *out, struct error e)
{
    if (e.code == ERROR_NONE)
        return;
    fputs("<p>", out);
    put_escaped(out, e.text);
    fputs("</p>\n", out);
}

static void put_subject(FILE *out, const struct report_subject *s)
{
    fputs("<h2>", out);
    put_escaped(out, s->name);
    fputs("</h2>\n", out);
    put_facts(out, s->facts, s->fact_count);
    if (s->link) {
        fputs("<p><a href=\"", out);
        put_address(out, s->link);
        fputs("\">report</a></p>\n", out);
    }
    put_trouble(out, put_sheet(out, s->folder));
    put_trouble(out, put_subject_curve(out, s->folder));
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
    put_head(file.stream, title);
    for (int64_t i = 0; i < subject_count; i++) {
        put_subject(file.stream, &subjects[i]);
        progress_step(&progress, i + 1, "");
    }
    fputs("</main>\n</body>\n</html>\n", file.stream);
    struct error e = whole_file_end(&file, true);
    progress_end(&progress);
    return e;
}
