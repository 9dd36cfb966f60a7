package consumer_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestOptionTable checks that the table of options in the package documentation has a row for
// each option, and that its marks say which forms accept it.
func TestOptionTable(t *testing.T) {
	t.Parallel()
	other, err := pgxpool.New(t.Context(), "host=localhost") // does not connect
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	options := map[string]consumer.Option{
		"WithWorkers":      consumer.WithWorkers(2),
		"WithCategories":   consumer.WithCategories("other"),
		"WithPartitions":   consumer.WithPartitions(2),
		"InOrder":          consumer.InOrder(),
		"FromEnd":          consumer.FromEnd(),
		"FromPosition":     consumer.FromPosition(1),
		"WithLease":        consumer.WithLease(time.Minute),
		"WithInstance":     consumer.WithInstance("mailer-0"),
		"WithDrainTimeout": consumer.WithDrainTimeout(time.Second),
		"OnFailure":        consumer.OnFailure(consumer.Failure.Default),
		"StopOnError":      consumer.StopOnError(),
		"MaxParked":        consumer.MaxParked(1),
		"WithErrorText":    consumer.WithErrorText(),
		"OnPark":           consumer.OnPark(func(context.Context, pgx.Tx, consumer.Parked) error { return nil }),
		"ParkAlone":        consumer.ParkAlone(),
		"OnLive":           consumer.OnLive(func(bool) {}),
		"OnPartitions":     consumer.OnPartitions(func([]int) {}),
		"OnRetry":          consumer.OnRetry(func(mdb.Retry) {}),
		"WithPolling":      consumer.WithPolling(poll.Constant(time.Second)),
		"WithMaxBytes":     consumer.WithMaxBytes(1),
		"WithBatchSize":    consumer.WithBatchSize(1),
		"PerTx":            consumer.PerTx(1, 0),
		"WithIsolation":    consumer.WithIsolation(pgx.Serializable),
		"WithIdleTimeout":  consumer.WithIdleTimeout(time.Second),
		"StateIn":          consumer.StateIn(other),
		"FilterOnServer":   consumer.FilterOnServer(),
		"InPositionStream": consumer.InPositionStream("mailer"),
		"FlushEvery":       consumer.FlushEvery(time.Second, 100),
	}
	needed := map[string]consumer.Option{"FlushEvery": consumer.InPositionStream("mailer")}
	forms := map[string]consumer.Handler{
		"Each":       consumer.Each(func(context.Context, mdb.Message) error { return nil }),
		"Batch":      consumer.Batch(func(context.Context, []mdb.Message) error { return nil }),
		"EachTx":     consumer.EachTx(func(context.Context, pgx.Tx, mdb.Message) error { return nil }),
		"BatchTx":    consumer.BatchTx(func(context.Context, pgx.Tx, []mdb.Message) error { return nil }),
		"EachQueued": consumer.EachQueued(func(*pgx.Batch, mdb.Message) error { return nil }),
	}
	exported, table := documented(t)
	header, rows, _ := strings.Cut(table, "\n")
	var found []string
	for line := range strings.Lines(rows) {
		name := strings.Fields(line)[0]
		found = append(found, name)
		option, ok := options[name]
		if !ok {
			t.Errorf("the test does not know the option %s", name)
			continue
		}
		for form, handler := range forms {
			column := strings.Index(header, " "+form+" ") + 1
			if strings.HasSuffix(header, " "+form) {
				column = len(header) - len(form)
			}
			marked := column < len(line) && line[column] == 'x'
			given := []consumer.Option{option}
			if other, ok := needed[name]; ok {
				given = append(given, other)
			}
			_, err := consumer.New(new(mdb.Store), "name", "category", handler, given...)
			if marked != (err == nil) {
				t.Errorf("%s with %s: marked %v, New returns %v", name, form, marked, err)
			}
		}
	}
	slices.Sort(found)
	if slices.Sort(exported); !slices.Equal(found, exported) {
		t.Errorf("the table has %q, want %q", found, exported)
	}
}

// documented returns the names of the functions that return an Option, and the lines of the
// table in the package documentation.
func documented(t *testing.T) (options []string, table string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if _, after, ok := strings.Cut(file.Doc.Text(), "# Options\n\n"); ok {
			table = strings.TrimRight(strings.ReplaceAll("\n"+after, "\n\t", "\n"), "\n")[1:]
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !f.Name.IsExported() || f.Type.Results == nil {
				continue
			}
			if result, ok := f.Type.Results.List[0].Type.(*ast.Ident); ok && result.Name == "Option" {
				options = append(options, f.Name.Name)
			}
		}
	}
	if table == "" {
		t.Fatal("the package documentation has no options")
	}
	return options, table
}
