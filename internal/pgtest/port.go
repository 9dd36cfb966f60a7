package pgtest

import (
	"fmt"
	"net"
	"strconv"
)

// freePort returns a port that nobody uses. Another process may take it.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("pgtest: find a free port: %w", err)
	}
	defer l.Close()

	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}
