package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/trigger"
	"github.com/messagedb-go/messagedb/mdb"
)

var streamsCommand = command{
	name:  "streams",
	args:  []string{"[FILTER]"},
	short: "count messages by stream",
	long: `Prints the number of messages of each stream and its percentage of all messages, from
the views stream_summary and stream_type_summary.

` + aboutFilter,
	examples: `mdb streams
mdb streams 'account-*'
mdb streams -types account-123`,
	setup: func(fs *flag.FlagSet) action {
		types := fs.Bool("types", false, "count each type of message separately")
		asJSON := summaryJSON(fs)
		return func(ctx context.Context, a *app, args []string) error {
			if *types {
				return a.summarise(ctx, args, *asJSON, "stream_type_summary", "stream_name", "type")
			}
			return a.summarise(ctx, args, *asJSON, "stream_summary", "stream_name")
		}
	},
}

var categoriesCommand = command{
	name:  "categories",
	args:  []string{"[FILTER]"},
	short: "count messages by category",
	long: `Prints the number of messages of each category and its percentage of all messages,
from the view category_type_summary.

` + aboutFilter,
	examples: `mdb categories
mdb categories -types account`,
	setup: func(fs *flag.FlagSet) action {
		types := fs.Bool("types", false, "count each type of message separately")
		asJSON := summaryJSON(fs)
		return func(ctx context.Context, a *app, args []string) error {
			if *types {
				return a.summarise(ctx, args, *asJSON, "category_type_summary", "category", "type")
			}
			return a.summarise(ctx, args, *asJSON, "category_type_summary", "category")
		}
	},
}

var typesCommand = command{
	name:  "types",
	args:  []string{"[FILTER]"},
	short: "count messages by type",
	long: `Prints the number of messages of each type and its percentage of all messages, from
the views type_summary, type_stream_summary and type_category_summary.

` + aboutFilter,
	examples: `mdb types
mdb types -categories
mdb types -streams '*Deposited'`,
	setup: func(fs *flag.FlagSet) action {
		streams := fs.Bool("streams", false, "count each stream separately")
		categories := fs.Bool("categories", false, "count each category separately")
		asJSON := summaryJSON(fs)
		return func(ctx context.Context, a *app, args []string) error {
			switch {
			case *streams && *categories:
				return usage("-streams and -categories exclude each other")
			case *streams:
				return a.summarise(ctx, args, *asJSON, "type_stream_summary", "type", "stream_name")
			case *categories:
				return a.summarise(ctx, args, *asJSON, "type_category_summary", "type", "category")
			}
			return a.summarise(ctx, args, *asJSON, "type_summary", "type")
		}
	},
}

const aboutFilter = `FILTER selects rows by the name in the first column; a * in it matches any text. The
percentage is always of all messages, and the command always reads the whole table.`

func summaryJSON(fs *flag.FlagSet) *bool {
	return fs.Bool("json", false, "print lines of JSON")
}

// summarise prints a view, grouped by the given columns and filtered by the first of
// them.
func (a *app) summarise(ctx context.Context, args []string, asJSON bool, view string, columns ...string) error {
	filter, err := atMostOne(args, "FILTER")
	if err != nil {
		return err
	}
	pattern := "%"
	if len(args) > 0 {
		pattern = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`).Replace(filter)
	}
	names := strings.Join(columns, ", ")
	sql := `SELECT * FROM (
	SELECT ` + names + `, sum(message_count)::bigint, round(sum(message_count) * 100 / sum(sum(message_count)) OVER (), 2)::text
	FROM message_store.` + view + `
	GROUP BY ` + names + `
) AS summary WHERE ` + columns[0] + ` LIKE $1 ORDER BY ` + names
	return a.withStore(ctx, func(s *mdb.Store) error {
		rows, _ := s.Pool().Query(ctx, sql, pattern)
		counts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c count, err error) {
			c.names = make([]string, len(columns))
			destinations := make([]any, 0, len(columns)+2)
			for i := range c.names {
				destinations = append(destinations, &c.names[i])
			}
			return c, row.Scan(append(destinations, &c.messages, &c.percent)...)
		})
		switch {
		case err != nil:
			if state, asked := trigger.Look(ctx, s.Pool()); asked == nil && state.Proxied {
				return fmt.Errorf("%s: only the shards of PL/Proxy have this view: run the command on each of them", view)
			}
			return fmt.Errorf(`%s: %w; run "mdb check"`, view, err)
		case len(counts) == 0:
			return nothing("no messages found")
		case asJSON:
			return a.countsAsJSON(columns, counts)
		}
		return a.table(columns, counts)
	})
}

// A count is a row of a summary.
type count struct {
	names    []string
	messages int64
	percent  string
}

func (a *app) table(columns []string, counts []count) error {
	var b strings.Builder
	for _, column := range columns {
		column, _, _ = strings.Cut(column, "_")
		b.WriteString(strings.ToUpper(column) + "\t")
	}
	b.WriteString("MESSAGES\tPERCENT\n")
	for _, c := range counts {
		for _, name := range c.names {
			b.WriteString(printable(name) + "\t")
		}
		fmt.Fprintf(&b, "%d\t%s\n", c.messages, c.percent)
	}
	return a.say("%s", aligned(b.String()))
}

// countsAsJSON prints lines of JSON whose fields have the names of the views' columns.
func (a *app) countsAsJSON(columns []string, counts []count) error {
	w := bufio.NewWriter(a.stdout)
	for _, c := range counts {
		object := map[string]any{"message_count": c.messages, "percent": json.Number(c.percent)}
		for i, column := range columns {
			object[column] = c.names[i]
		}
		if err := printJSON(w, object); err != nil {
			return err
		}
	}
	return w.Flush()
}
