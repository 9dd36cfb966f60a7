//go:build unix && !aix && !solaris

package pgtest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// fetchScript is a script rather than Go, so that CI can run it before the tests.
//
//go:embed fetch-postgres
var fetchScript string

// fetch returns the folder with the programs of a major version. It downloads them
// through npm the first time.
func fetch(ctx context.Context, major int) (string, error) {
	// The script is an argument rather than standard input, because npm might read
	// standard input.
	cmd := exec.CommandContext(ctx, "bash", "-c", fetchScript, "fetch-postgres", strconv.Itoa(major))
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return "", fmt.Errorf("pgtest: MDB_TEST_POSTGRES=%d: %s", major, strings.TrimSpace(string(failed.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("pgtest: MDB_TEST_POSTGRES=%d: %w", major, err)
	}

	return strings.TrimSpace(string(out)), nil
}
