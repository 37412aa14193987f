/* report/html.h
 *
 * What the pages are made of. They ask no server for anything: styles are inside, and the policy in the head forbids
 * what a page does not need. A run's page runs nothing and has its pictures inside. Text from a user goes through html_text or html_address alone.
 */
#ifndef ZOODIP_REPORT_HTML_H
#define ZOODIP_REPORT_HTML_H

#include <stdio.h>

#include "files/picture.h"
#include "report/chart.h"

/* A page of a run, up to the heading, which is the title. */
void html_begin(FILE *out, const char *title);
void html_end(FILE *out);

/* What another kind of page has of its own in its head. */
struct html_kind {
    const char *policy; /* what it may load or run */
    const char *style;  /* besides what all pages share */
    const char *head;   /* more elements, or "" */
};
void html_begin_as(FILE *out, const char *title, const struct html_kind *kind);

/* Text, or the value of an attribute in double quotes. */
void html_text(FILE *out, const char *text);

/* A path as a link: characters with a meaning in a page or an address are percent-encoded. */
void html_address(FILE *out, const char *path);

/* An img with the picture inside, shrunk if a side is longer than `most`. alt: what it shows. */
struct error html_picture(FILE *out, const struct picture *picture, const char *alt, int64_t most);

/* An error as a paragraph; nothing if there is none. A file that another run is writing, or that is damaged, must not
 * keep the others off the page. */
void html_trouble(FILE *out, struct error e);

/* Name, value pairs as a table. */
void html_facts(FILE *out, const char *const *facts, int64_t count);

/* The curve, under a heading. The plot is an SVG that takes any shape; its texts are the page's, so they have the same
 * size on a phone. */
void html_curve(FILE *out, const struct chart *chart);

#endif
