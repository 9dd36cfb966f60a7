//go:build unix && !aix && !solaris

package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// ErrNotFound is the error if the machine has no PostgreSQL to start a server from.
var ErrNotFound = fmt.Errorf("pgtest: found no PostgreSQL %d or later: install one (apt-get install postgresql), "+
	"or set MDB_TEST_DATABASE_URL to the URL of a server, or MDB_TEST_POSTGRES=17 to download one with npm", oldest)

// usualPlaces is a variable so that a test can simulate a machine without PostgreSQL.
var usualPlaces = []string{
	"/usr/lib/postgresql/*/bin", // Debian
	"/usr/pgsql-*/bin",          // packages of postgresql.org for Red Hat
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/usr/local/pgsql/bin", // make install
}

type installation struct {
	bin   string
	major int
}

// Find returns the folder with the PostgreSQL programs that Start uses, and their
// major version.
func Find(ctx context.Context) (bin string, major int, err error) {
	found := installations(ctx)

	wanted := os.Getenv("MDB_TEST_POSTGRES")
	if wanted == "" {
		if len(found) == 0 {
			return "", 0, ErrNotFound
		}
		return found[0].bin, found[0].major, nil
	}

	major, err = strconv.Atoi(wanted)
	if err != nil || major < oldest {
		return "", 0, fmt.Errorf("pgtest: MDB_TEST_POSTGRES is %q: set it to a major version, %d or later", wanted, oldest)
	}
	for _, i := range found {
		if i.major == major {
			return i.bin, major, nil
		}
	}
	bin, err = fetch(ctx, major)

	return bin, major, err
}

// installations returns the usable installations: first the one in PATH, which is the
// user's choice, then the others, the newest first.
func installations(ctx context.Context) []installation {
	var found []installation
	for _, pattern := range usualPlaces {
		bins, _ := filepath.Glob(pattern)
		for _, bin := range bins {
			if i, err := inspect(ctx, bin); err == nil {
				found = append(found, i)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b installation) int { return cmp.Compare(b.major, a.major) })

	if path, err := exec.LookPath("postgres"); err == nil {
		if i, err := inspect(ctx, filepath.Dir(path)); err == nil {
			found = slices.Insert(found, 0, i)
		}
	}

	return found
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) ([0-9]+)`)

// inspect returns an error if no server can be started from the folder. Packages of
// the client alone install a similar folder.
func inspect(ctx context.Context, bin string) (installation, error) {
	for _, program := range []string{"initdb", "pg_ctl"} {
		if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
			return installation{}, err
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return installation{}, err
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return installation{}, errors.New("unknown version")
	}
	major, err := strconv.Atoi(string(m[1]))
	if err != nil || major < oldest {
		return installation{}, errors.New("too old")
	}

	return installation{bin, major}, nil
}
