//go:build unix && !aix && !solaris

package pgtest

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestServer checks the settings, addresses, account and restarts of a new server, and
// that Stop removes its folder.
func TestServer(t *testing.T) {
	t.Parallel()

	NeedPrograms(t)
	const name = `it's a \ name`
	s, err := Start(t.Context(), Setting("max_connections", "30"), Setting("cluster_name", name))
	if err != nil {
		t.Fatal(err)
	}
	dir := s.process.dir
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder still exists after Stop: %v", err)
		}
	}()

	if got := query[string](t, s.URL("postgres"), "SHOW cluster_name"); got != name {
		t.Errorf("cluster_name is %q, want %q", got, name)
	}
	if got := query[string](t, s.URL("postgres"), "SHOW max_connections"); got != "30" {
		t.Errorf("max_connections is %s, want the option's 30", got)
	}
	if got := query[int](t, s.URL("postgres"), "SELECT current_setting('server_version_num')::int / 10000"); got != s.Version() {
		t.Errorf("Version is %d, want %d", s.Version(), got)
	}

	t.Run("any database name", func(t *testing.T) {
		const odd = `a b/c?d%e"f`
		if err := s.exec(t.Context(), "CREATE DATABASE "+quote(odd)); err != nil {
			t.Fatal(err)
		}
		for _, url := range []string{s.URL(odd), s.TCP(odd)} {
			if got := query[string](t, url, "SELECT current_database()"); got != odd {
				t.Errorf("%s connects to %q", url, got)
			}
		}
	})

	t.Run("password", func(t *testing.T) {
		if got := query[bool](t, s.TCP("postgres"), "SELECT inet_server_addr() IS NOT NULL"); !got {
			t.Error("the URL of TCP does not use TCP")
		}
		wrong, err := url.Parse(s.TCP("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		wrong.User = url.UserPassword("postgres", "wrong")
		_, err = pgx.Connect(t.Context(), wrong.String())
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "28P01" {
			t.Errorf("with a wrong password: %v, want code 28P01", err)
		}
	})

	t.Run("account", func(t *testing.T) {
		info, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		uid := int(info.Sys().(*syscall.Stat_t).Uid)
		if me := os.Geteuid(); me == 0 && uid == 0 || me != 0 && uid != me {
			t.Errorf("user %d started a server that runs as user %d", me, uid)
		}
	})

	t.Run("restart", func(t *testing.T) {
		for _, mode := range []string{"fast", "immediate"} {
			conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(mode); err != nil {
				t.Fatal(err)
			}
			if err := conn.Ping(t.Context()); err == nil {
				t.Errorf("a connection outlived a %s restart", mode)
			}
			if got := query[string](t, s.TCP("postgres"), "SHOW max_connections"); got != "30" {
				t.Errorf("max_connections is %s after a %s restart, want 30", got, mode)
			}
		}
		if err := s.Restart("smart"); err == nil || !strings.Contains(err.Error(), "fast") {
			t.Errorf("got %v, want an error that lists the modes", err)
		}
	})
}

// TestStartReportsTheLog checks that the error of a failed start contains the end of
// the server's log.
func TestStartReportsTheLog(t *testing.T) {
	t.Parallel()

	NeedPrograms(t)
	s, err := Start(t.Context(), Setting("no_such_setting", "1"))
	if err == nil {
		_ = s.Stop()
		t.Fatal("started a server with an unknown setting")
	}
	if !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("the error does not say why: %v", err)
	}
}

// TestNoServer checks that without PostgreSQL the test process ends with one line that
// says what to do.
func TestNoServer(t *testing.T) {
	t.Parallel()

	cmd := command(t, []string{"-test.run=^(TestDatabase|TestShared)"},
		childMode+"=nowhere", "PATH=/nonexistent", "MDB_TEST_DATABASE_URL=", "MDB_TEST_POSTGRES=")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()

	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	if got := lines(stderr.String()); len(got) != 1 || got[0] != ErrNotFound.Error() {
		t.Errorf("standard error is\n%s\nwant this one line: %v", stderr.String(), ErrNotFound)
	}
	if strings.Contains(stdout.String(), "FAIL") {
		t.Errorf("tests failed one by one:\n%s", stdout.String())
	}
}
