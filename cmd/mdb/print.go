package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/messagedb-go/messagedb/internal/terminal"
	"github.com/messagedb-go/messagedb/mdb"
)

// A line is a message as a line of JSON. The fields have the names of Message DB's
// columns; those that are SQL NULL are left out.
type line struct {
	ID             string          `json:"id"`
	StreamName     string          `json:"stream_name"`
	Type           string          `json:"type"`
	Position       int64           `json:"position"`
	GlobalPosition int64           `json:"global_position"`
	Data           json.RawMessage `json:"data,omitempty"`
	Metadata       json.RawMessage `json:"metadata,omitempty"`
	Time           time.Time       `json:"time"`
}

// A printer prints each message with one call of Write, so that a program that follows
// the output sees whole lines.
type printer struct {
	w              io.Writer
	json, coloured bool
	width          func() int // the columns of the terminal, 0 if lines are not cut
}

func (a *app) printer(asJSON bool) *printer {
	return &printer{w: a.stdout, json: asJSON, coloured: coloured(a.stdout, a.env), width: func() int { return width(a.stdout, a.env) }}
}

func (p *printer) message(m mdb.Message) error {
	if p.json {
		return printJSON(p.w, line{
			ID: m.ID.String(), StreamName: string(m.Stream), Type: m.Type,
			Position: m.Position, GlobalPosition: m.GlobalPosition,
			Data: m.Data, Metadata: m.Metadata, Time: m.Time,
		})
	}
	parts := []part{
		{dim, m.Time.Format("2006-01-02T15:04:05.000000Z07:00")},
		{"", strconv.FormatInt(m.GlobalPosition, 10)},
		{cyan, fmt.Sprintf("%s/%d", printable(string(m.Stream)), m.Position)},
		{bold, printable(m.Type)},
	}
	if m.Data != nil {
		parts = append(parts, part{"", printable(string(m.Data))})
	}
	if m.Metadata != nil {
		parts = append(parts, part{dim, "metadata " + printable(string(m.Metadata))})
	}
	_, err := io.WriteString(p.w, p.line(parts)+"\n")
	return err
}

// A part is a column of a line.
type part struct {
	colour colour
	text   string
}

// cutFrom is the number of parts that are never cut: all but data and metadata.
const cutFrom = 4

// line puts the parts into a line, and cuts what does not fit on the terminal.
func (p *printer) line(parts []part) string {
	const gap = "  "
	left := p.width()
	uncut := left == 0
	var b strings.Builder
	for i, part := range parts {
		text := part.text
		if i > 0 {
			text = gap + text
		}
		if i >= cutFrom && !uncut {
			text, _ = terminal.Cut(text, left)
		}
		left -= terminal.Columns(text)
		shown, indented := strings.CutPrefix(text, gap)
		if indented {
			b.WriteString(gap)
		}
		b.WriteString(p.colour(part.colour, shown))
	}
	return b.String()
}

// say prints to the standard output.
func (a *app) say(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

// aligned turns tab-separated text into columns.
func aligned(text string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = io.WriteString(w, text) // a Builder never fails
	_ = w.Flush()
	return b.String()
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// A colour is the escape sequence that switches it on.
type colour string

const (
	bold  colour = "\x1b[1m"
	dim   colour = "\x1b[2m"
	cyan  colour = "\x1b[36m"
	reset colour = "\x1b[0m"
)

func (p *printer) colour(c colour, text string) string {
	if !p.coloured || c == "" || text == "" {
		return text
	}
	return string(c) + text + string(reset)
}

// width returns the number of columns of w if it is a terminal, or 0 if it is not, or if that is unknown.
func width(w io.Writer, env func(string) string) int {
	if !isTerminal(w) {
		return 0
	}
	if columns := terminal.Width(w.(*os.File)); columns > 0 { //nolint:forcetypeassert // a terminal is a file
		return columns
	}
	columns, _ := strconv.Atoi(env("COLUMNS"))
	return max(columns, 0)
}

// coloured reports whether w is a terminal on which the user wants colours.
func coloured(w io.Writer, env func(string) string) bool {
	return isTerminal(w) && env("NO_COLOR") == "" && env("TERM") != "dumb"
}

// printable escapes characters that a terminal would act on or that would break the
// line. In JSON they occur in strings only, where the escape means the same.
func printable(text string) string {
	if strings.IndexFunc(text, unprintable) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unprintable(r) && r <= 0xFFFF {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool {
	return unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}
