"""An atlas -> packages that Neuronpedia and SAEDashboard read, and the package of the export document."""
