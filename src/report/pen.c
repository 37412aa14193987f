#include "report/pen.h"

#include <ctype.h>
#include <math.h>
#include <string.h>
#include <utf8proc.h>

static double distance_to(double px, double py, double x0, double y0, double x1, double y1)
{
    double dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
    double t = length > 0 ? ((px - x0) * dx + (py - y0) * dy) / length : 0;
    t = fmin(fmax(t, 0), 1);
    return hypot(px - x0 - t * dx, py - y0 - t * dy);
}

static int64_t clamp(double value, int64_t high)
{
    return !(value > 0) ? 0 : value > (double)high ? high : (int64_t)value;
}

void pen_stroke(struct picture *p, double x0, double y0, double x1, double y1, double radius, struct color color,
                double alpha)
{
    int64_t top = clamp(floor(fmin(y0, y1) - radius - 1), p->height - 1);
    int64_t bottom = clamp(ceil(fmax(y0, y1) + radius + 1), p->height - 1);
    int64_t left = clamp(floor(fmin(x0, x1) - radius - 1), p->width - 1);
    int64_t right = clamp(ceil(fmax(x0, x1) + radius + 1), p->width - 1);
    for (int64_t y = top; y <= bottom; y++)
        for (int64_t x = left; x <= right; x++) {
            double edge = radius + 0.5 - distance_to((double)x + 0.5, (double)y + 0.5, x0, y0, x1, y1);
            double cover = alpha * fmin(fmax(edge, 0), 1);
            uint8_t *pixel = p->rgb + 3 * (y * p->width + x);
            for (int c = 0; c < 3 && cover > 0; c++)
                pixel[c] = (uint8_t)lround(pixel[c] + cover * (color.rgb[c] - pixel[c]));
        }
}

/* Letters as pen strokes: points xy on a grid, capitals from y 0 to 6, small ones from 2 to 6; '/' lifts the pen. */
static const char *const letters[128] = {
    [' '] = "",
    ['!'] = "20 24/26",
    ['"'] = "10 12/30 32",
    ['#'] = "10 16/30 36/02 42/04 44",
    ['$'] = "41 30 10 01 02 13 33 44 45 36 16 05/20 26",
    ['%'] = "40 06/01 11/35 45",
    ['&'] = "46 02 01 10 20 31 04 05 16 26 44",
    ['\''] = "20 22",
    ['('] = "30 11 15 36",
    [')'] = "10 31 35 16",
    ['*'] = "21 25/12 34/32 14",
    ['+'] = "21 25/03 43",
    [','] = "26 17",
    ['-'] = "13 33",
    ['.'] = "26",
    ['/'] = "40 06",
    ['0'] = "10 30 41 45 36 16 05 01 10",
    ['1'] = "11 20 26/16 36",
    ['2'] = "01 10 30 41 42 06 46",
    ['3'] = "01 10 30 41 42 33 44 45 36 16 05/13 33",
    ['4'] = "36 30 04 44",
    ['5'] = "40 00 02 32 43 45 36 16 05",
    ['6'] = "41 30 10 01 05 16 36 45 44 33 03",
    ['7'] = "00 40 16",
    ['8'] = "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33",
    ['9'] = "05 16 36 45 41 30 10 01 02 13 43",
    [':'] = "23/26",
    [';'] = "23/26 17",
    ['<'] = "41 03 45",
    ['='] = "02 42/04 44",
    ['>'] = "01 43 05",
    ['?'] = "01 10 30 41 42 23 24/26",
    ['@'] = "34 14 13 22 32 34 44 41 30 10 01 05 16 36",
    ['A'] = "06 20 46/14 34",
    ['B'] = "00 06 36 45 44 33 03/33 42 41 30 00",
    ['C'] = "41 30 10 01 05 16 36 45",
    ['D'] = "00 06 26 44 42 20 00",
    ['E'] = "40 00 06 46/03 33",
    ['F'] = "40 00 06/03 33",
    ['G'] = "41 30 10 01 05 16 36 45 43 23",
    ['H'] = "00 06/40 46/03 43",
    ['I'] = "10 30/20 26/16 36",
    ['J'] = "20 40/30 35 26 16 05",
    ['K'] = "00 06/40 03 46",
    ['L'] = "00 06 46",
    ['M'] = "06 00 23 40 46",
    ['N'] = "06 00 46 40",
    ['O'] = "10 30 41 45 36 16 05 01 10",
    ['P'] = "06 00 30 41 42 33 03",
    ['Q'] = "10 30 41 45 36 16 05 01 10/24 46",
    ['R'] = "06 00 30 41 42 33 03/23 46",
    ['S'] = "41 30 10 01 02 13 33 44 45 36 16 05",
    ['T'] = "00 40/20 26",
    ['U'] = "00 05 16 36 45 40",
    ['V'] = "00 26 40",
    ['W'] = "00 16 23 36 40",
    ['X'] = "00 46/40 06",
    ['Y'] = "00 23 40/23 26",
    ['Z'] = "00 40 06 46",
    ['['] = "30 10 16 36",
    ['\\'] = "00 46",
    [']'] = "10 30 36 16",
    ['^'] = "02 20 42",
    ['_'] = "07 47",
    ['`'] = "10 21",
    ['a'] = "12 32 43 46/44 14 05 16 36 45",
    ['b'] = "00 06/03 12 32 43 45 36 16 05",
    ['c'] = "43 32 12 03 05 16 36 45",
    ['d'] = "40 46/43 32 12 03 05 16 36 45",
    ['e'] = "04 44 43 32 12 03 05 16 36",
    ['f'] = "40 30 21 26/12 32",
    ['g'] = "42 47 38 18 07/43 32 12 03 05 16 36 45",
    ['h'] = "00 06/03 12 32 43 46",
    ['i'] = "22 26/20",
    ['j'] = "32 37 28 18/30",
    ['k'] = "00 06/32 04/14 36",
    ['l'] = "10 20 25 36",
    ['m'] = "02 06/03 12 23 26/23 32 43 46",
    ['n'] = "02 06/03 12 32 43 46",
    ['o'] = "12 32 43 45 36 16 05 03 12",
    ['p'] = "02 08/03 12 32 43 45 36 16 05",
    ['q'] = "42 48/43 32 12 03 05 16 36 45",
    ['r'] = "02 06/04 13 22 42",
    ['s'] = "43 32 12 03 14 34 45 36 16 05",
    ['t'] = "10 15 26 36/02 32",
    ['u'] = "02 05 16 36 45/42 46",
    ['v'] = "02 26 42",
    ['w'] = "02 16 24 36 42",
    ['x'] = "02 46/42 06",
    ['y'] = "02 26/42 18 08",
    ['z'] = "02 42 06 46",
    ['{'] = "30 21 22 13 24 25 36",
    ['|'] = "20 27",
    ['}'] = "10 21 22 33 24 25 16",
    ['~'] = "04 13 34 43",
};

static const char box[] = "00 40 46 06 00";

static void put_letter(struct picture *p, const char *points, double x, double y, double unit, struct color color)
{
    double from_x = 0, from_y = 0;
    bool down = false;
    for (const char *at = points; *at; at++) {
        if (*at == '/')
            down = false;
        if (!isdigit((unsigned char)*at))
            continue;
        double to_x = x + (at[0] - '0') * unit, to_y = y + (at[1] - '0') * unit;
        pen_stroke(p, down ? from_x : to_x, down ? from_y : to_y, to_x, to_y, fmax(0.36 * unit, 0.55), color, 1);
        from_x = to_x;
        from_y = to_y;
        down = true;
        at++;
    }
}

enum { LINE_LETTERS = 400 };

/* A text's letters: strokes, "" for a blank. */
struct line {
    const char *letters[LINE_LETTERS];
    int count; /* what is longer is cut */
};

/* The strokes of a character; NULL: it leaves no mark, as an accent of its own. */
static const char *letter_of(utf8proc_int32_t code)
{
    utf8proc_int32_t parts[8] = {code};
    utf8proc_decompose_char(code, parts, 8, UTF8PROC_DECOMPOSE, NULL); // the letter comes before its accents
    utf8proc_category_t category = utf8proc_category(parts[0]);
    if (category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME)
        return NULL;
    if (category == UTF8PROC_CATEGORY_ZS || code == '\n' || code == '\t')
        return letters[' '];
    return parts[0] < 128 && letters[parts[0]] ? letters[parts[0]] : box;
}

static void read_line(struct line *line, const char *text)
{
    *line = (struct line){.count = 0};
    while (*text && line->count < LINE_LETTERS) {
        utf8proc_int32_t code;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &code);
        const char *letter = length > 0 ? letter_of(code) : box;
        if (letter)
            line->letters[line->count++] = letter;
        text += length > 0 ? length : 1;
    }
}

static void put_letters(struct picture *p, const char *const *strokes, int count, double x, double y, double unit,
                        struct color color)
{
    for (int i = 0; i < count; i++)
        put_letter(p, strokes[i], x + i * PEN_LETTER * unit, y, unit, color);
}

double pen_text_width(const char *text, double unit)
{
    struct line line;
    read_line(&line, text);
    return line.count * PEN_LETTER * unit - 2 * unit;
}

void pen_text(struct picture *p, const char *text, double x, double y, double unit, struct color color)
{
    struct line line;
    read_line(&line, text);
    put_letters(p, line.letters, line.count, x, y, unit, color);
}

/* How many of the letters from `from` on to put into a line with room for `room`. */
static int fitting(const struct line *line, int from, int room)
{
    if (line->count - from <= room)
        return line->count - from;
    for (int i = room; i > 0; i--)
        if (!*line->letters[from + i])
            return i;
    return room; // a word longer than a line
}

int pen_paragraph(struct picture *p, const char *text, double x, double y, double unit, struct color color,
                  double width, int most)
{
    struct line line;
    read_line(&line, text);
    int room = (int)fmax((width / unit + 2) / PEN_LETTER, 4), lines = 0;
    for (int from = 0; from < line.count && lines < most; lines++) {
        int count = fitting(&line, from, room);
        if (lines == most - 1 && from + count < line.count) {
            count = room;
            for (int i = 1; i <= 3; i++)
                line.letters[from + room - i] = letters['.'];
        }
        if (p)
            put_letters(p, line.letters + from, count, x, y + lines * PEN_LINE * unit, unit, color);
        for (from += count; from < line.count && !*line.letters[from]; from++) // a line begins with no blank
            ;
    }
    return lines;
}
