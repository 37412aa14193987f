#include "report/html.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"

static const char head_begin[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; base-uri 'none'; form-action 'none'; "
    "style-src 'unsafe-inline'; ";

/* What all pages share: the colours, light and dark; headings and text. */
static const char shared_style[] =
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<style>\n"
    ":root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1c2430; --soft: #566272; --rule: "
    "#e1e5eb;\n"
    "  --dots: #7f9cc4; --line: #1d4ed8; --mark: #d9541c; }\n"
    "@media (prefers-color-scheme: dark) { :root { --paper: #12161c; --card: #1b212a; --ink: #e6eaf0; --soft: "
    "#a2adbc;\n"
    "  --rule: #303947; --dots: #56719a; --line: #7aa5ff; --mark: #ff9155; } }\n"
    "* { box-sizing: border-box; }\n"
    "body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }\n"
    "main { max-width: 1000px; margin: 0 auto; padding: 32px 20px 64px; }\n"
    "h1 { font-size: 28px; line-height: 1.25; margin: 0 0 12px; overflow-wrap: anywhere; }\n"
    "h2 { font-size: 18px; margin: 36px 0 12px; overflow-wrap: anywhere; }\n"
    "a { color: var(--line); } p { margin: 0 0 12px; overflow-wrap: anywhere; }\n"
    "section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 20px; }\n"
    "@media (max-width: 520px) { main { padding: 20px 12px 48px; } section { padding: 12px; } h1 { font-size: 23px; } "
    "}\n";

/* Of a run's page; the widths at which columns become fewer. A row's label stands above its first column and reaches
 * over the others. */
static const char run_style[] =
    "table { border-collapse: collapse; width: 100%; table-layout: fixed; }\n"
    "th, td { text-align: left; padding: 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top;\n"
    "  overflow-wrap: anywhere; }\n"
    "tr:last-child th, tr:last-child td { border-bottom: 0; }\n"
    "th { font-weight: normal; color: var(--soft); width: 38%; padding-right: 16px; }\n"
    "img { display: block; width: 100%; border-radius: 6px; }\n"
    "figure { margin: 0; }\n"
    ".columns { --n: 5; display: grid; grid-template-columns: repeat(var(--n), minmax(0, 1fr)); gap: 16px 12px; "
    "overflow: hidden; }\n"
    ".columns.n4 { --n: 4; } .columns.n3 { --n: 3; max-width: 660px; } .columns.n2 { --n: 2; max-width: 440px; }\n"
    ".columns + .columns { margin-top: 16px; }\n"
    ".row { font-size: 14px; font-weight: 600; margin: 0 0 4px; white-space: nowrap; overflow: hidden;\n"
    "  text-overflow: ellipsis; width: calc(var(--n) * 100% + (var(--n) - 1) * 12px); visibility: hidden; }\n"
    ".row.whole { visibility: visible; width: auto; }\n"
    ".row + img { margin-bottom: 10px; }\n"
    ".columns figure:nth-child(5n + 1) .row { visibility: visible; }\n"
    "figcaption { color: var(--soft); font-size: 13px; line-height: 1.35; margin-top: 6px; overflow-wrap: anywhere;\n"
    "  max-height: 8.1em; overflow-y: auto; }\n"
    ".film { display: flex; gap: 8px; overflow-x: auto; padding-bottom: 8px; }\n"
    ".film figure { flex: 0 0 104px; } .film figcaption { margin-top: 2px; }\n"
    ".film + p { margin-top: 16px; }\n"
    ".name { font-size: 14px; color: var(--soft); margin: 0 0 6px; max-height: 6em; overflow-y: auto; }\n"
    ".legend { display: flex; flex-wrap: wrap; gap: 2px 22px; margin: 0; font-size: 14px; color: var(--soft); "
    "}\n"
    ".legend span::before { content: \"\"; display: inline-block; vertical-align: middle; margin-right: 8px; }\n"
    ".legend .dots::before { width: 6px; height: 6px; border-radius: 3px; background: var(--dots); }\n"
    ".legend .line::before { width: 24px; height: 3px; background: var(--line); }\n"
    ".legend .mark::before { width: 9px; height: 9px; border-radius: 5px; background: var(--mark); }\n"
    ".legend .best::before { width: 15px; height: 15px; border-radius: 8px; border: 2px solid var(--mark);\n"
    "  background: radial-gradient(var(--mark) 4px, transparent 5px); }\n"
    ".plot { position: relative; height: clamp(230px, 44vw, 400px); margin: 30px 10px 44px 50px; font-size: 13px;\n"
    "  color: var(--soft); }\n"
    ".plot svg { position: absolute; width: 100%; height: 100%; overflow: visible; }\n"
    ".plot path { fill: none; stroke-linecap: round; stroke-linejoin: round; vector-effect: non-scaling-stroke; }\n"
    ".plot span { position: absolute; white-space: nowrap; line-height: 1; }\n"
    ".plot .y { right: 100%; margin-right: 8px; transform: translateY(-50%); }\n"
    ".plot .x { top: 100%; margin-top: 9px; transform: translateX(-50%); }\n"
    ".plot .loss { bottom: 100%; right: 100%; margin: 0 8px 14px; }\n"
    ".plot .step { top: 100%; right: 0; margin-top: 29px; }\n"
    "path.rule { stroke: var(--rule); } path.axis { stroke: var(--soft); }\n"
    "path.dots { stroke: var(--dots); stroke-width: 3px; } path.line { stroke: var(--line); stroke-width: 2px; }\n"
    "path.steps { stroke: var(--mark); stroke-width: 1.5px; opacity: .6; } path.mark { stroke: var(--mark); "
    "stroke-width: 9px; }\n"
    "path.ring { stroke: var(--mark); stroke-width: 21px; } path.gap { stroke: var(--card); stroke-width: 17px; }\n"
    "pre { margin: 0; overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; tab-size: 4; }\n"
    "details { margin: 4px 0 8px; font-size: 12px; color: var(--soft); } summary { cursor: pointer; }\n"
    "details pre { font-size: 11px; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; }\n"
    ".note { margin: 16px 0 0; font-size: 13px; color: var(--soft); }\n"
    "@media (max-width: 760px) { .columns:not(.n2) { --n: 3; }\n"
    "  .columns figure:nth-child(n) .row { visibility: hidden; }\n"
    "  .columns figure:nth-child(3n + 1) .row { visibility: visible; } }\n"
    "@media (max-width: 520px) {\n"
    "  .columns:not(.n2) { --n: 2; } .columns.photos:not(.n2) { --n: 3; } .columns figure:nth-child(n) .row { "
    "visibility: hidden; }\n"
    "  .columns figure:nth-child(2n + 1) .row { visibility: visible; }\n"
    "  .plot { margin-left: 42px; } .plot .x:nth-of-type(even) { display: none; } th { width: 42%; } }\n";

void html_begin_as(FILE *out, const char *title, const struct html_kind *kind)
{
    fprintf(out, "%s%s\">\n%s%s</style>\n%s<title>", head_begin, kind->policy, shared_style, kind->style, kind->head);
    html_text(out, title);
    fputs("</title>\n</head>\n<body>\n<main>\n<h1>", out);
    html_text(out, title);
    fputs("</h1>\n", out);
}

void html_begin(FILE *out, const char *title)
{
    const struct html_kind run = {.policy = "img-src data:", .style = run_style, .head = ""};
    html_begin_as(out, title, &run);
}

void html_end(FILE *out)
{
    fputs("</main>\n</body>\n</html>\n", out);
}

void html_text(FILE *out, const char *text)
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

void html_address(FILE *out, const char *path)
{
    for (; *path; path++) {
        unsigned char c = (unsigned char)*path;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_./", c);
        fprintf(out, plain ? "%c" : "%%%02X", c);
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

static struct error put_png(FILE *out, const struct picture *picture)
{
    uint8_t *png;
    int64_t size;
    TRY(picture_encode(picture, &png, &size));
    put_base64(out, png, size);
    memory_free(png);
    return ok();
}

struct error html_picture(FILE *out, const struct picture *picture, const char *alt, int64_t most)
{
    int64_t longest = picture->width > picture->height ? picture->width : picture->height;
    struct picture small = {0};
    if (longest > most) {
        int64_t width = picture->width * most / longest, height = picture->height * most / longest;
        TRY(picture_resize(&small, picture, width > 0 ? width : 1, height > 0 ? height : 1));
    }
    fputs("<img alt=\"", out);
    html_text(out, alt);
    fputs("\" src=\"data:image/png;base64,", out);
    struct error e = put_png(out, longest > most ? &small : picture);
    fputs("\">", out);
    picture_free(&small);
    return e;
}

void html_trouble(FILE *out, struct error e)
{
    if (e.code == ERROR_NONE)
        return;
    fputs("<p>", out);
    html_text(out, e.text);
    fputs("</p>\n", out);
}

void html_facts(FILE *out, const char *const *facts, int64_t count)
{
    if (count == 0)
        return;
    fputs("<section>\n<table>\n", out);
    for (int64_t i = 0; i < count; i++) {
        fputs("<tr><th>", out);
        html_text(out, facts[2 * i]);
        fputs("</th><td>", out);
        html_text(out, facts[2 * i + 1]);
        fputs("</td></tr>\n", out);
    }
    fputs("</table>\n</section>\n", out);
}

/* -------------------------------------------------------------------------------- the curve */

enum { SIDE = 1000 }; /* of the plot, in its own units; the page stretches it */

static double place_x(const struct chart *chart, double step)
{
    return axis_part(&chart->x, step) * SIDE;
}

static double place_y(const struct chart *chart, double value)
{
    return (1 - axis_part(&chart->y, value)) * SIDE;
}

static void put_legend(FILE *out, const struct chart *chart)
{
    fputs("<p class=\"legend\"><span class=\"dots\">loss of a step</span><span class=\"line\">its running mean</span>"
          "<span class=\"mark\">validation loss</span>",
          out);
    if (chart->best >= 0)
        fprintf(out, "<span class=\"best\">best: step %lld, %.5f</span>", (long long)chart->looks[chart->best].step,
                chart->looks[chart->best].loss);
    fputs("</p>\n", out);
}

static void put_rules(FILE *out, const struct chart *chart)
{
    for (int i = 0; i < chart->y.tick_count; i++)
        fprintf(out, "<path class=\"rule\" d=\"M0 %.1fH%d\"/>\n", place_y(chart, chart->y.ticks[i]), SIDE);
    fprintf(out, "<path class=\"axis\" d=\"M0 %dH%d\"/>\n", SIDE, SIDE);
}

/* Beside the plot: SVG's text would be stretched with it. */
static void put_axis_texts(FILE *out, const struct chart *chart)
{
    for (int i = 0; i < chart->x.tick_count; i++)
        fprintf(out, "<span class=\"x\" style=\"left:%.2f%%\">%.0f</span>",
                place_x(chart, chart->x.ticks[i]) * 100 / SIDE, chart->x.ticks[i]);
    for (int i = 0; i < chart->y.tick_count; i++)
        fprintf(out, "<span class=\"y\" style=\"top:%.2f%%\">%.*f</span>",
                place_y(chart, chart->y.ticks[i]) * 100 / SIDE, chart->y.decimals, chart->y.ticks[i]);
    fputs("<span class=\"step\">step</span><span class=\"loss\">loss</span>\n", out);
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
        fprintf(out, "%c%.1f %.1f%s", down && !dot ? 'L' : 'M', place_x(chart, (double)chart->lines.steps[i]),
                place_y(chart, values[i]), dot ? "h0" : "");
        down = true;
    }
    fputs("\"/>\n", out);
}

static void put_mark(FILE *out, const struct chart *chart, const struct look *look, const char *kind)
{
    fprintf(out, "<path class=\"%s\" d=\"M%.1f %.1fh0\"><title>step %lld: %.5f</title></path>\n", kind,
            place_x(chart, (double)look->step), place_y(chart, look->loss), (long long)look->step, look->loss);
}

static void put_looks(FILE *out, const struct chart *chart)
{
    fputs("<path class=\"steps\" d=\"", out);
    for (int64_t i = 0; i < chart->look_count; i++)
        fprintf(out, "%c%.1f %.1f", i == 0 ? 'M' : 'L', place_x(chart, (double)chart->looks[i].step),
                place_y(chart, chart->looks[i].loss));
    fputs("\"/>\n", out);
    if (chart->best >= 0) {
        put_mark(out, chart, &chart->looks[chart->best], "ring");
        put_mark(out, chart, &chart->looks[chart->best], "gap");
    }
    for (int64_t i = 0; i < chart->look_count; i++)
        put_mark(out, chart, &chart->looks[i], "mark");
}

static void put_plot(FILE *out, const struct chart *chart)
{
    fprintf(out,
            "<svg viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"loss over steps\">\n",
            SIDE, SIDE);
    put_rules(out, chart);
    fprintf(out, "<g opacity=\"%.2f\">", fmax(0.35, fmin(0.7, 700.0 / (double)chart->lines.count)));
    put_path(out, chart, chart->lines.losses, chart->lines.count / 2000 + 1, "dots", true);
    fputs("</g>\n", out);
    put_path(out, chart, chart->mean, chart->lines.count / 600 + 1, "line", false);
    put_looks(out, chart);
    fputs("</svg>\n", out);
}

void html_curve(FILE *out, const struct chart *chart)
{
    fputs("<h2>Loss</h2>\n<section>\n", out);
    put_legend(out, chart);
    fputs("<div class=\"plot\">", out);
    put_axis_texts(out, chart);
    put_plot(out, chart);
    fputs("</div>\n</section>\n", out);
}
