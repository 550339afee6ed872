// The test service on grpc-go: `peer server [CHAIN KEY]`, `peer client TARGET [ROOT]`.
package main

import (
	"fmt"
	"os"
)

func main() {
	useCodec()
	err := fmt.Errorf("peer server [CHAIN KEY] | client TARGET [ROOT]")
	if len(os.Args) > 1 && os.Args[1] == "server" {
		err = serve(os.Args[2:])
	} else if len(os.Args) > 2 && os.Args[1] == "client" {
		err = call(os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
