package mdbcontainer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/testcontainers/testcontainers-go"
)

// ErrNoEngine says that no container engine answers.
var ErrNoEngine = errors.New("mdbcontainer: no container engine answers: start Docker or Podman; " +
	"or go on without one, as package mdbtest does: set MDB_TEST_DATABASE_URL to the URL of a PostgreSQL server, " +
	"or install PostgreSQL's programs (apt-get install postgresql)")

// checkEngine looks first, because from testcontainers-go's errors a missing engine
// and a missing image cannot be told apart.
func checkEngine(ctx context.Context, kind testcontainers.ProviderType) error {
	provider, err := kind.GetProvider()
	if err == nil {
		defer func() { _ = provider.Close() }()
		err = provider.Health(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("mdbcontainer: look for a container engine: %w", context.Cause(ctx))
	case err != nil:
		// It has looked in several places, and says so in several lines.
		return fmt.Errorf("%w (%s)", ErrNoEngine, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}
