package mdbcontainer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/testcontainers/testcontainers-go"
)

// ErrNoEngine is the error of [Run] if there is no container engine. Its text says what to
// do.
var ErrNoEngine = errors.New("mdbcontainer: no container engine found: start Docker or Podman; " +
	"or use package mdbtest, which needs none: set MDB_TEST_DATABASE_URL to the URL of a PostgreSQL server, " +
	"or install PostgreSQL's programs (apt-get install postgresql)")

// checkEngine runs first, because the errors of testcontainers-go do not distinguish a
// missing engine from a missing image.
func checkEngine(ctx context.Context, kind testcontainers.ProviderType) error {
	provider, err := kind.GetProvider()
	if err == nil {
		defer func() { _ = provider.Close() }()
		err = provider.Health(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("mdbcontainer: find a container engine: %w", context.Cause(ctx))
	case err != nil:
		// The error has a line for each place that was searched.
		return fmt.Errorf("%w (%s)", ErrNoEngine, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}
