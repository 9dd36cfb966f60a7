package mdb_test

import (
	"context"
	"errors"
	"fmt"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestForkByRestore checks that subscriptions notice that the store was restored from a backup: one that starts from a checkpoint
// reports what is missing and delivers all that was written since, also if that has more messages than were lost, and one that starts from a bare position fails as
// long as the store has not used the position.
func TestForkByRestore(t *testing.T) {
	pgtest.NeedPrograms(t)
	pgtest.NeedTime(t)
	t.Parallel()
	bin, major, err := pgtest.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program := func(name string, args ...string) {
		t.Helper()
		path, err := osexec.LookPath(filepath.Join(bin, name))
		if err != nil {
			path, err = osexec.LookPath(name)
		}
		if err != nil {
			t.Skipf("needs %s", name)
		}
		// A later pg_dump writes settings that the server does not have.
		if version, err := osexec.CommandContext(t.Context(), path, "--version").Output(); err != nil || !strings.Contains(string(version), fmt.Sprintf(" %d.", major)) {
			t.Skipf("needs the %s of PostgreSQL %d, and this is %s, %v", name, major, version, err)
		}
		if out, err := osexec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	l := newLossy(t)
	backup := filepath.Join(t.TempDir(), "backup.sql")
	l.write(60)
	program("pg_dump", "--clean", "--schema=message_store", "--file="+backup, l.url)
	l.write(30)
	kinds := slices.DeleteFunc(forkKinds(), func(k forkKind) bool { return k.name != "plain" && k.name != "group" && k.name != "stream" })
	before, checkpoints := map[string]int{}, map[string]string{}
	for _, k := range kinds {
		r := k.start(t, l.s, "")
		r.until(t, l.pool, "before the restore", l.end(k, false), nil)
		r.stop(t)
		before[k.name], checkpoints[k.name] = len(r.ids()), r.checkpoint
	}

	l.pool.Close()
	program("psql", "--quiet", "--set=ON_ERROR_STOP=1", "--file="+backup, l.url)
	l.pool = newPool(t, l.url)
	l.s = newStore(t, l.pool)
	kept := map[string]int{}
	for _, k := range kinds {
		kept[k.name] = len(l.stored(k))
	}
	ignore := func(context.Context, mdb.Message) error { return nil }
	err = l.s.SubscribeToCategory(t.Context(), "account", ignore, mdb.AfterGlobalPosition(90))
	if e := wantError[*mdb.AheadError](t, err); e.Last != 60 {
		t.Errorf("got %+v, want the last position 60", e)
	}
	l.write(45)
	for _, k := range kinds {
		r := k.start(t, l.s, checkpoints[k.name])
		r.until(t, l.pool, "after the restore", l.end(k, false), func() bool { return len(r.forks) > 0 })
		r.stop(t)
		fresh := l.stored(k)[kept[k.name]:]
		if got := r.ids(); len(got) < len(fresh) || !slices.Equal(got[len(got)-len(fresh):], fresh) {
			t.Errorf("%s: got %d messages, want the %d that were written since at the end", k.name, len(got), len(fresh))
		}
		if missing := missingIDs(r.forks[0]); len(r.forks) != 1 || len(missing) == 0 || len(missing) > before[k.name]-kept[k.name] {
			t.Errorf("%s: %d forks with %d messages, want one with up to %d", k.name, len(r.forks), len(missing), before[k.name]-kept[k.name])
		}
	}
	ctx, end := context.WithCancelCause(t.Context())
	err = l.s.SubscribeToCategory(ctx, "account", ignore, mdb.AfterGlobalPosition(90), mdb.OnLive(func(bool) { end(errStopped) }))
	if !errors.Is(err, errStopped) {
		t.Errorf("got %v: the position is used again, and nothing shows that", err)
	}
}
