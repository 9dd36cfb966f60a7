package archive_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestModes checks that export, import and deletion do the same in all modes of pgx, of which a pooler needs some.
func TestModes(t *testing.T) {
	t.Parallel()
	lines := export(t, newUnusual(t), archive.ExportOptions{})
	n := int64(len(parse(t, lines)))
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			for _, opts := range []archive.ImportOptions{{}, {Times: true, Gaps: true}} {
				s := open(t, mdbtest.Store(t), func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = mode })
				imports(t, s, lines, opts, archive.Imported{Written: n})
				imports(t, s, lines, opts, archive.Imported{Found: n})
				if got, want := same(t, export(t, s, archive.ExportOptions{}), opts.Times), same(t, lines, opts.Times); got != want {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
				old := archive.Old{Stream: "account-1", Before: 5}
				if counted, err := archive.Count(t.Context(), s.Pool(), old); err != nil || counted != 5 {
					t.Errorf("counted %d, %v, want 5", counted, err)
				}
				if deleted, err := archive.Delete(t.Context(), s.Pool(), old, nil); err != nil || deleted != 5 {
					t.Errorf("deleted %d, %v, want 5", deleted, err)
				}
			}
		})
	}
}
