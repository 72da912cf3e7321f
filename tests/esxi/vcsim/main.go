// vcsim serves the vSphere API of an ESXi host, or of a vCenter, from memory: VMware's own simulator, which Debian
// ships as a library only (golang-github-vmware-govmomi-dev). It ends with SIGTERM, and takes its files along.
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
)

var (
	listen   = flag.String("listen", "127.0.0.1:8989", "address and port")
	vcenter  = flag.Bool("vcenter", false, "be a vCenter with one host, not a host by itself")
	user     = flag.String("user", "root", "the only account")
	password = flag.String("password", "", "its password")
	version  = flag.String("version", "", "version to show, such as 6.0; default: the simulator's own")
	edition  = flag.String("edition", "", "edition key of the licence, such as esxBasic; default: an evaluation's")
	manager  = flag.String("manager", "", "address of the vCenter that manages the host")
	oldTLS   = flag.Bool("old-tls", false, "speak TLS 1.0 only")
)

// configured returns the model of a host or a vCenter, made as the flags say.
func configured() *simulator.Model {
	if *edition != "" {
		simulator.EvalLicense.EditionKey = *edition
	}
	esx.HostSystem.Summary.ManagementServerIp = *manager
	model := simulator.ESX()
	if *vcenter {
		model = simulator.VPX()
		model.Cluster, model.Host = 0, 1
	}
	model.Machine = 0
	if *version != "" {
		model.ServiceContent.About.Version = *version
		model.ServiceContent.About.ApiVersion = *version
		model.ServiceContent.About.FullName = model.ServiceContent.About.Name + " " + *version
	}
	return model
}

func main() {
	flag.Parse()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)

	model := configured()
	defer model.Remove()
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	model.Service.TLS = new(tls.Config)
	complete(model)
	if *oldTLS {
		model.Service.TLS.MinVersion, model.Service.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
	}
	server := model.Service.NewServer()
	defer server.Close()
	<-ended
}
