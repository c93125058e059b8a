"""When and where the components run, and who may promote what came out."""
