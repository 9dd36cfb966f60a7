package pgtest

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// clone creates a database from the template of the given name.
func (s *Server) clone(ctx context.Context, template string, setup func(context.Context, *pgx.Conn) error) (string, error) {
	if err := s.announce(ctx); err != nil {
		return "", err
	}
	// Unlike template1, template0 has no connections and no added objects.
	source := "template0"

	if setup != nil {
		var err error
		source, err = templates.do(template, func() (string, error) {
			return s.prepare(ctx, template, setup)
		})
		if err != nil {
			return "", err
		}
	}

	return s.create(ctx, source)
}

// prepare creates a template database. PostgreSQL cannot copy a database that has
// connections, so setup's connection is closed before prepare returns the name.
func (s *Server) prepare(ctx context.Context, template string, setup func(context.Context, *pgx.Conn) error) (string, error) {
	name, err := s.create(ctx, "template0")
	if err != nil {
		return "", err
	}

	conn, err := pgx.Connect(ctx, s.URL(name))
	if err != nil {
		return "", fmt.Errorf("pgtest: connect to template %q: %w", template, err)
	}
	defer conn.Close(ctx)

	if err := setup(ctx, conn); err != nil {
		return "", fmt.Errorf("pgtest: the setup of template %q failed: %w", template, err)
	}
	if err := conn.Close(ctx); err != nil {
		return "", fmt.Errorf("pgtest: close the connection to template %q: %w", template, err)
	}

	return name, nil
}

func (s *Server) create(ctx context.Context, source string) (string, error) {
	name := newName()

	return name, s.exec(ctx, "CREATE DATABASE "+quote(name)+" TEMPLATE "+quote(source))
}

func (s *Server) drop(ctx context.Context, name string) error {
	return s.exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)")
}

// exec runs a statement in the administrative database.
func (s *Server) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return fmt.Errorf("pgtest: connect to the server: %w", err)
	}
	defer conn.Close(ctx)

	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("pgtest: %s: %w", sql, err)
	}

	return nil
}

func quote(name string) string {
	return pgx.Identifier{name}.Sanitize()
}
