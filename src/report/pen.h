/* report/pen.h
 *
 * Lines and letters on a picture, for people who open a run's folder. Everything is drawn by one primitive, a
 * round-ended stroke whose edge is smoothed by its distance to the pixel; so letters come in any size. Known are the
 * printable characters of ASCII; other letters lose their accents, and what then is none of these is a box.
 */
#ifndef ZOODIP_REPORT_PEN_H
#define ZOODIP_REPORT_PEN_H

#include <stdbool.h>

#include "files/picture.h"

struct color {
    uint8_t rgb[3];
};

/* A line of the given half width between two points; equal points make a dot. alpha 0..1. */
void pen_stroke(struct picture *p, double x0, double y0, double x1, double y1, double radius, struct color color,
                double alpha);

/* In units: from a letter to the next, a capital's height, and from a line to the next. */
enum { PEN_LETTER = 6, PEN_CAPITAL = 6, PEN_LINE = 10 };

/* Pixels from the first letter's left edge to the last one's right edge; a unit has `unit` pixels. */
double pen_text_width(const char *text, double unit);

/* One line of UTF-8 text with its upper left corner at (x, y). */
void pen_text(struct picture *p, const char *text, double x, double y, double unit, struct color color);

/* The same in lines of at most `width` pixels, parted between words where that is possible. What does not fit into
 * `most` lines is left out, and three dots say so. Returns the number of lines; p NULL: draws nothing. */
int pen_paragraph(struct picture *p, const char *text, double x, double y, double unit, struct color color,
                  double width, int most);

#endif
