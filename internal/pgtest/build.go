package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Build compiles the main packages of the working directory that a pattern names, such as
// "./...", into a folder. It uses the race detector if the test does: Go's build cache
// then has their packages from the build of the test.
func Build(folder, pattern string) error {
	args := []string{"build", "-o", folder + string(os.PathSeparator)}
	if Race {
		args = append(args, "-race")
		// Otherwise each of the programs waits for a second before it exits.
		if err := os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")); err != nil {
			return err
		}
	}
	out, err := exec.Command("go", append(args, pattern)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
