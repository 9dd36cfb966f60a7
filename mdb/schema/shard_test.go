package schema_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

const (
	writeOne     = `SELECT message_store.write_message(gen_random_uuid()::varchar, 'account-1', 'Happened', '{}')`
	allPositions = `SELECT coalesce(array_agg(global_position ORDER BY global_position), '{}') FROM message_store.messages`
	sequence     = `message_store.messages_global_position_seq`
)

// TestInstallShard checks which positions a shard uses, with and without messages of before, and that
// repeating it changes nothing.
func TestInstallShard(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		before string
		number int
		want   []int64 // of the messages that follow
	}{
		{"an empty database", "", 3, []int64{3, 1027, 2051}},
		{"number 0", "", 0, []int64{1024, 2048, 3072}},
		{"the highest number", "", 1023, []int64{1023, 2047, 3071}},
		{"a store with messages", writeOne + ";" + writeOne, 1, []int64{1025, 2049, 3073}},
		{"a store with more messages", "SELECT setval('" + sequence + "', 1025);" + writeOne, 2, []int64{2050, 3074, 4098}},
		{"positions that were rolled back", "SELECT setval('" + sequence + "', 1027)", 3, []int64{2051, 3075, 4099}},
		{"a position that is next", "SELECT setval('" + sequence + "', 1027, false)", 3, []int64{1027, 2051, 3075}},
		{"a sequence that is too low", "INSERT INTO message_store.messages (global_position, stream_name, type, position) VALUES (1030, 'a-1', 'A', 0)", 4, []int64{2052, 3076, 4100}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := testdb.Empty(t)
			conn := connect(t, url)
			if test.before != "" {
				if err := testdb.InstallOurs(t.Context(), conn); err != nil {
					t.Fatal(err)
				}
				run(t, conn, test.before)
			}
			old := testdb.Value[[]int64](t, conn, `SELECT CASE WHEN to_regclass('message_store.messages') IS NULL THEN '{}' ELSE '{0}'::bigint[] END`)
			if len(old) > 0 {
				old = testdb.Value[[]int64](t, conn, allPositions)
			}
			for range 2 {
				if err := schema.InstallShard(t.Context(), conn, test.number); err != nil {
					t.Fatal(err)
				}
			}
			if state, err := schema.ShardStatus(t.Context(), conn); err != nil || state != (schema.ShardState{Installed: true, Number: test.number}) {
				t.Errorf("got %+v, %v", state, err)
			}
			for i := range test.want {
				run(t, conn, writeOne)
				unchanged(t, conn, func() {
					if err := schema.InstallShard(t.Context(), conn, test.number); err != nil {
						t.Error(err)
					}
					if err := schema.Install(t.Context(), conn); err != nil {
						t.Error(err)
					}
				})
				want := append(slices.Clone(old), test.want[:i+1]...)
				if got := testdb.Value[[]int64](t, conn, allPositions); !slices.Equal(got, want) {
					t.Fatalf("got the positions %d, want %d", got, want)
				}
			}
		})
	}
}

// TestInstallShardCorrects checks that a sequence which has left its positions, or is too low, is set past all
// positions, and never back.
func TestInstallShardCorrects(t *testing.T) {
	t.Parallel()
	conn := connect(t, testdb.New(t))
	for _, test := range []struct {
		spoil string
		want  int64 // the next position
	}{
		{"SELECT 1", 7},
		{"SELECT setval('" + sequence + "', 5000)", 5127},
		{"SELECT setval('" + sequence + "', 5128, false)", 6151},
		{"INSERT INTO message_store.messages (global_position, stream_name, type, position) VALUES (9000, 'a-1', 'A', 0)", 9223},
		{"SELECT setval('" + sequence + "', 1031); DELETE FROM message_store.messages", 2055},
		{"ALTER SEQUENCE " + sequence + " RESTART", 7},
	} {
		run(t, conn, test.spoil)
		if err := schema.InstallShard(t.Context(), conn, 7); err != nil {
			t.Fatal(err)
		}
		if got := testdb.Value[int64](t, conn, "SELECT nextval('"+sequence+"')"); got != test.want {
			t.Errorf("after %s: got the position %d, want %d", test.spoil, got, test.want)
		}
	}
}

// TestInstallShardRefuses checks what cannot become a shard, and that it is unchanged.
func TestInstallShardRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		spoil  string
		number int
		want   string
	}{
		{"SELECT 1", -1, "from 0 to 1023"},
		{"SELECT 1", 1024, "from 0 to 1023"},
		{"ALTER SEQUENCE " + sequence + " INCREMENT BY 1024 START WITH 3 RESTART", 4, "the store is shard 3"},
		{"ALTER SEQUENCE " + sequence + " INCREMENT BY 10", 4, "INCREMENT 10"},
		{"ALTER SEQUENCE " + sequence + " CACHE 5", 4, "CACHE 5"},
		{"ALTER SEQUENCE " + sequence + " CYCLE", 4, "CYCLE"},
		{"ALTER SEQUENCE " + sequence + " INCREMENT BY -1 MINVALUE -9", 4, "INCREMENT -1"},
		{"DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO message_store', current_database()); END $$; SET ROLE message_store", 4, "only the owner"},
		{"CREATE SCHEMA message_store_shard; GRANT CREATE ON SCHEMA message_store_shard TO PUBLIC", 4, "schema message_store_shard of this database"},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, testdb.New(t))
			run(t, conn, test.spoil)
			unchanged(t, conn, func() {
				if err := schema.InstallShard(t.Context(), conn, test.number); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %s", err, test.want)
				}
			})
		})
	}
}

// TestInstallShardWaits checks that the stride changes only when no transaction is open that has drawn a position: readers of
// all categories rely on it.
func TestInstallShardWaits(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	for i, end := range []string{"COMMIT", "ROLLBACK"} {
		writer, conn := connect(t, url), connect(t, url)
		pin(t, conn)
		run(t, conn, fmt.Sprintf("ALTER SEQUENCE %s INCREMENT BY 1 START WITH 1", sequence))
		run(t, writer, "BEGIN; "+writeOne)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- schema.InstallShard(ctx, conn, i) }()
		testdb.WaitForLock(t, connect(t, url), conn.PgConn().PID())
		if state, err := schema.ShardStatus(t.Context(), connect(t, url)); err != nil || state.Installed {
			t.Errorf("got %+v, %v", state, err)
		}
		run(t, writer, end)
		if err := <-done; err != nil {
			t.Error(err)
		}
		cancel()
	}
}

// TestShardStatusWithoutMessageDB checks that a database without Message DB is no shard, and that no privilege is needed.
func TestShardStatusWithoutMessageDB(t *testing.T) {
	t.Parallel()
	if state, err := schema.ShardStatus(t.Context(), connect(t, testdb.Empty(t))); err != nil || state.Installed {
		t.Errorf("got %+v, %v", state, err)
	}
	conn := connect(t, testdb.New(t))
	if err := schema.InstallShard(t.Context(), conn, 5); err != nil {
		t.Fatal(err)
	}
	run(t, conn, "REVOKE ALL ON SCHEMA message_store FROM message_store; SET ROLE message_store")
	if state, err := schema.ShardStatus(t.Context(), conn); err != nil || state.Number != 5 {
		t.Errorf("got %+v, %v", state, err)
	}
}
