//go:build unix && !aix && !solaris

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// conninfo is the connection string of a standby of this server.
func (p *process) conninfo() string {
	return fmt.Sprintf("host=%s port=%s user=postgres application_name=%s", p.dir, p.port, filepath.Base(p.dir))
}

// duplicate makes a backup of the primary while copyData copies its data for this
// server. It does without pg_basebackup, which the packages of npm lack.
func (p *process) duplicate(ctx context.Context, account *syscall.Credential, primary *Server, copyData func() error) error {
	start, stop := "pg_backup_start('pgtest', true)", "pg_backup_stop(false)"
	if primary.version < 15 {
		start, stop = "pg_start_backup('pgtest', true, false)", "pg_stop_backup(false, false)"
	}
	// The backup lasts as long as its session.
	conn, err := pgx.Connect(ctx, primary.admin)
	if err != nil {
		return fmt.Errorf("pgtest: connect to the primary: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "SELECT "+start); err != nil {
		return fmt.Errorf("pgtest: start a backup: %w", err)
	}
	if err := copyData(); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM "+stop).Scan(&label); err != nil {
		return errors.Join(fmt.Errorf("pgtest: end a backup: %w", err), p.stop())
	}
	name := filepath.Join(p.dir, "data", "backup_label")
	err = os.WriteFile(name, []byte(label), 0o600)
	if err == nil && account != nil {
		err = os.Chown(name, int(account.Uid), int(account.Gid))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("pgtest: %w", err), p.stop())
	}
	return nil
}
